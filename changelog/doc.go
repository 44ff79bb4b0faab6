// Package changelog takes state to its topic and back: what a record looks like, what a checkpoint says, which of several
// sources is true at a start, and how a store is restored. A building block; most programs never import it.
//
// In the order a start meets them: LockDir and OpenManifest (is this directory ours?), EnsureTopics and Registry (are
// these topics ours?), Decide (which source is true?), Restorer (bring the local copy up to the changelog's end).
package changelog
