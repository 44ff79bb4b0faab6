package changelog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Names in a task's directory.
const (
	ManifestFile  = "manifest.json"
	DatabaseDir   = "db"
	manifestBytes = 1 << 20 // more is no manifest
)

// manifestFormat is the newest format this program reads and the one it writes.
const manifestFormat = 1

// Manifest says whose a task's directory is and what its rows mean (docs/format/manifest.md). It is written before the
// first row and read before the database is opened: a directory of another application, cluster or topic life never
// becomes anybody's state by accident.
type Manifest struct {
	Format      int             `json:"format"`
	App         string          `json:"app"`
	Cluster     string          `json:"cluster"`
	Task        string          `json:"task"`
	Fingerprint string          `json:"fingerprint"` // of the topology that opened it last; a changed one is no mistake
	Created     time.Time       `json:"created"`
	NextPrefix  uint16          `json:"next_prefix"` // given out next; never one given out before
	Stores      []ManifestStore `json:"stores"`
	Topics      []ManifestTopic `json:"topics"`
}

// ManifestStore is a store whose rows are, or were, in the database.
type ManifestStore struct {
	Name  string     `json:"name"`
	Kind  store.Kind `json:"kind"`
	Key   string     `json:"key"`   // serde ids
	Value string     `json:"value"` // of the newest rows
	// Version is that of Value; left out it is 1. Older are the forms that rows were written in before, oldest first.
	Version uint16         `json:"version,omitempty"`
	Older   []ManifestForm `json:"older,omitempty"`
	Prefix  uint16         `json:"prefix"`
	Retired bool           `json:"retired,omitempty"` // not in the topology any more; its rows may still be there
}

// ManifestForm is one way in which the values of a store were written.
type ManifestForm struct {
	Version uint16 `json:"version"`
	Value   string `json:"value"`
}

// forms lists every form that rows of the store may have, oldest first.
func (s *ManifestStore) forms() []serde.Form {
	forms := make([]serde.Form, 0, len(s.Older)+1)
	for _, f := range s.Older {
		forms = append(forms, serde.Form{Version: f.Version, ID: f.Value})
	}
	return append(forms, serde.Form{Version: max(1, s.Version), ID: s.Value})
}

// write makes f the form of the newest rows, if it is newer than what there is.
func (s *ManifestStore) write(f serde.Form) {
	forms := addForm(s.forms(), f)
	s.Older = nil
	for _, old := range forms[:len(forms)-1] {
		s.Older = append(s.Older, ManifestForm{old.Version, old.ID})
	}
	last := forms[len(forms)-1]
	s.Value = last.ID
	if s.Version = last.Version; s.Version == 1 {
		s.Version = 0
	}
}

// ManifestTopic is an input or changelog of the task.
type ManifestTopic struct {
	Name       string `json:"name"`
	ID         string `json:"id"` // hexadecimal; empty where the cluster has no topic ids
	Partitions int32  `json:"partitions"`
}

// Identity is what a task expects its directory to be.
type Identity struct {
	App         string
	Cluster     string
	Task        string
	Fingerprint [16]byte
	Stores      []store.Spec
	Topics      []Topic // inputs and changelogs, as EnsureTopics returned them
}

// OpenManifest checks the manifest in dir against what the task expects, makes one if dir is empty or absent, and records what
// has been added or retired. dir must be under the lock of its StateDir. A refusal is a *fault.Error of kind State, or
// several, joined; nothing has been changed then.
func OpenManifest(dir string, want Identity, now time.Time) (*Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	m, err := readManifest(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(filepath.Join(dir, DatabaseDir)); err == nil {
			return nil, manifestError("manifest/missing", path, "", "the directory holds a database, but nothing says whose",
				"put the manifest back, or remove the directory: the state is then restored from the changelog", nil)
		}
		m = &Manifest{Format: manifestFormat, App: want.App, Cluster: want.Cluster, Task: want.Task, Created: now.UTC(), NextPrefix: 1}
	case err != nil:
		return nil, err
	}
	if err := m.check(path, &want); err != nil {
		return nil, err
	}
	before, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := m.update(path, &want); err != nil {
		return nil, err
	}
	after, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if _, err := os.Lstat(path); err == nil && bytes.Equal(before, after) {
		return m, nil
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return m, writeManifest(path, after)
}

// Bindings ties the task's stores to their prefixes.
func (m *Manifest) Bindings(stores []store.Spec) []store.Binding {
	bindings := make([]store.Binding, 0, len(stores))
	for _, s := range stores {
		if i := m.live(s.Name()); i >= 0 {
			bindings = append(bindings, store.Binding{Spec: s, Prefix: m.Stores[i].Prefix})
		}
	}
	return bindings
}

// live is the index of the entry of a store that is in use, -1 if there is none.
func (m *Manifest) live(name string) int {
	return slices.IndexFunc(m.Stores, func(s ManifestStore) bool { return s.Name == name && !s.Retired })
}

// check compares, and changes nothing. Every mistake is reported.
func (m *Manifest) check(path string, want *Identity) error {
	var errs []error
	differs := func(code, what, found, wanted, remedy string) {
		if found != wanted {
			errs = append(errs, manifestError(code, path, found, "the "+what+" must be "+strconv.Quote(wanted), remedy, nil))
		}
	}
	differs("manifest/other-app", "application", m.App, want.App, "give every application its own state directory")
	differs("manifest/other-cluster", "cluster id", m.Cluster, want.Cluster,
		"connect to the cluster the state belongs to, or use another state directory; the state of one cluster means nothing on another")
	differs("manifest/other-task", "task", m.Task, want.Task, "a task's directory cannot be renamed: remove it and the state is restored from the changelog")
	if len(errs) > 0 {
		return errors.Join(errs...) // nothing below would mean anything
	}
	for _, s := range want.Stores {
		// A retired store of that name counts too: its changelog holds rows of that kind and those codecs.
		for i := len(m.Stores) - 1; i >= 0; i-- { // the newest one of that name has all forms
			old := &m.Stores[i]
			if old.Name != s.Name() {
				continue
			}
			thing := "store " + strconv.Quote(s.Name()) + " in " + path
			const remedy = "change it back, or give the changed store a new name; `millrace reset` empties the old one"
			if old.Kind != s.Kind() {
				errs = append(errs, manifestError("manifest/store-kind", thing, old.Kind.String(),
					"the topology now says "+s.Kind().String(), remedy, nil))
			}
			if old.Key != s.KeyID() {
				errs = append(errs, manifestError("manifest/serde", "key of "+thing, old.Key,
					"the rows are in this codec, the topology now says "+strconv.Quote(s.KeyID()), remedy, nil))
			}
			for _, p := range compareForms(old.forms(), store.Forms(s)) {
				e := manifestError("manifest/serde", "value of "+thing, p.found, p.reason, p.remedy, nil)
				if p.back {
					e.Code = "manifest/value-version"
				}
				errs = append(errs, e)
			}
			break
		}
	}
	for _, t := range want.Topics {
		i := slices.IndexFunc(m.Topics, func(o ManifestTopic) bool { return o.Name == t.Name })
		if i < 0 {
			continue
		}
		old := m.Topics[i]
		if found := manifestTopicID(t.ID); old.ID != "" && found != "" && old.ID != found {
			wanted, _ := hex.DecodeString(old.ID)
			errs = append(errs, recreated(t.Name, t.ID, [16]byte(append(wanted, make([]byte, 16)...))))
			continue
		}
		if old.Partitions != t.Partitions {
			errs = append(errs, manifestError("manifest/partitions", "partitions of topic "+t.Name, strconv.Itoa(int(t.Partitions)),
				fmt.Sprintf("there were %d when the state was made: keys have moved to other partitions than their state", old.Partitions),
				"copy the topic into a new one and start a new application on it, or start over with `millrace reset`", nil))
		}
	}
	return errors.Join(errs...)
}

// update takes over what may change: new stores, retired ones, topics, the fingerprint.
func (m *Manifest) update(path string, want *Identity) error {
	m.Fingerprint = hex.EncodeToString(want.Fingerprint[:])
	for i := range m.Stores {
		m.Stores[i].Retired = m.Stores[i].Retired || !slices.ContainsFunc(want.Stores, func(s store.Spec) bool { return s.Name() == m.Stores[i].Name })
	}
	for _, s := range want.Stores {
		if i := m.live(s.Name()); i >= 0 {
			m.Stores[i].write(writes(s))
			continue
		}
		if m.NextPrefix == 0 {
			return manifestError("manifest/full", path, "", "65535 stores have been added to this task and prefixes are never given out twice",
				"remove the directory: the state is restored from the changelog", nil)
		}
		// A store that comes back after it was retired gets a new prefix too: its old rows were left alone while other
		// instances may have gone on deleting.
		// In the changelog they still are, so the forms that they have stay known.
		added := ManifestStore{Name: s.Name(), Kind: s.Kind(), Key: s.KeyID(), Prefix: m.NextPrefix}
		if f := writes(s); f.Version > 1 {
			added.Version = f.Version
		}
		added.Value = writes(s).ID
		for _, old := range m.Stores {
			if old.Name == s.Name() {
				for _, f := range old.forms() {
					added.write(f)
				}
			}
		}
		m.Stores = append(m.Stores, added)
		m.NextPrefix++
	}
	m.Topics = m.Topics[:0]
	for _, t := range want.Topics {
		m.Topics = append(m.Topics, ManifestTopic{Name: t.Name, ID: manifestTopicID(t.ID), Partitions: t.Partitions})
	}
	slices.SortFunc(m.Topics, func(a, b ManifestTopic) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return nil
}

// manifestEnvelope is the file: the manifest and the CRC-32C of its compact form.
type manifestEnvelope struct {
	Checksum string          `json:"checksum"`
	Manifest json.RawMessage `json:"manifest"`
}

func manifestChecksum(compact []byte) string {
	return fmt.Sprintf("crc32c:%08x", crc32.Checksum(compact, castagnoli))
}

func readManifest(path string) (*Manifest, error) {
	info, err := os.Lstat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, manifestError("manifest/unreadable", path, "", "", "look at the directory's permissions and disk", err)
	}
	if !info.Mode().IsRegular() || info.Size() > manifestBytes {
		return nil, manifestDamaged(path, "it is not a regular file of a manifest's size", nil)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, manifestError("manifest/unreadable", path, "", "", "look at the directory's permissions and disk", err)
	}
	return parseManifest(path, file)
}

func parseManifest(path string, file []byte) (*Manifest, error) {
	var env manifestEnvelope
	if err := json.Unmarshal(file, &env); err != nil {
		return nil, manifestDamaged(path, "it is not JSON", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, env.Manifest); err != nil {
		return nil, manifestDamaged(path, "it has no manifest in it", err)
	}
	if sum := manifestChecksum(compact.Bytes()); sum != env.Checksum {
		return nil, manifestDamaged(path, "its checksum does not match its text", nil)
	}
	// The format comes first: fields of a newer one may have other types.
	var format struct{ Format int }
	if err := json.Unmarshal(env.Manifest, &format); err != nil {
		return nil, manifestDamaged(path, "it has no format", err)
	}
	if format.Format > manifestFormat {
		return nil, manifestError("manifest/newer-format", path, strconv.Itoa(format.Format),
			"this program reads formats up to "+strconv.Itoa(manifestFormat), "run the version of millrace that wrote it, or a newer one", nil)
	}
	m := &Manifest{}
	if err := json.Unmarshal(env.Manifest, m); err != nil {
		return nil, manifestDamaged(path, "its fields do not decode", err)
	}
	if err := m.sane(); err != nil {
		return nil, manifestDamaged(path, "it contradicts itself", err)
	}
	return m, nil
}

// sane holds what check and update rely on.
func (m *Manifest) sane() error {
	if m.Format < 1 {
		return fmt.Errorf("format %d", m.Format)
	}
	prefixes := map[uint16]bool{}
	live := map[string]bool{}
	for _, s := range m.Stores {
		if s.Prefix == 0 || prefixes[s.Prefix] || m.NextPrefix != 0 && s.Prefix >= m.NextPrefix {
			return fmt.Errorf("prefix %d of store %q", s.Prefix, s.Name)
		}
		prefixes[s.Prefix] = true
		if !s.Retired && live[s.Name] {
			return fmt.Errorf("store %q is there twice", s.Name)
		}
		live[s.Name] = live[s.Name] || !s.Retired
		last := uint16(0)
		for _, f := range s.forms() {
			if f.Version <= last {
				return fmt.Errorf("version %d of store %q", f.Version, s.Name)
			}
			last = f.Version
		}
	}
	for _, t := range m.Topics {
		if id, err := hex.DecodeString(t.ID); err != nil || len(id) != 0 && len(id) != 16 {
			return fmt.Errorf("id %q of topic %q", t.ID, t.Name)
		}
	}
	return nil
}

// writeManifest replaces the file as one step: whoever reads it after a crash finds the old or the new one, whole.
func writeManifest(path string, compact []byte) error {
	var text bytes.Buffer
	env, err := json.Marshal(manifestEnvelope{manifestChecksum(compact), compact})
	if err == nil {
		err = json.Indent(&text, env, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	text.WriteByte('\n')
	return writeFile(path, text.Bytes())
}

func manifestTopicID(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return topicID(id)
}

// topicID prints a topic id in hexadecimal.
func topicID(id [16]byte) string { return hex.EncodeToString(id[:]) }

func manifestError(code, thing, value, reason, remedy string, err error) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: thing, Value: value, Reason: reason, Remedy: remedy, Err: err}
}

func manifestDamaged(path, reason string, err error) error {
	return manifestError("manifest/damaged", path, "", reason,
		"remove the directory it is in: the state is then restored from the changelog", err)
}
