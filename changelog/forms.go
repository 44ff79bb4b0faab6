package changelog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// formProblem is a form that rows may have and that a declaration does not read.
type formProblem struct {
	back          bool // it is newer than everything the declaration knows
	found, reason string
	remedy        string
}

// compareForms finds what of the forms that were written a store does not read any more. Each form that was ever written has
// to be declared under its number: rows are rewritten only when they are next put, so any of them may still have it.
func compareForms(written, declared []serde.Form) []formProblem {
	var problems []formProblem
	newest := declared[len(declared)-1]
	for _, w := range written {
		i := slices.IndexFunc(declared, func(d serde.Form) bool { return d.Version == w.Version })
		switch {
		case i >= 0 && clipID(declared[i].ID) == clipID(w.ID):
		case len(written) == 1 && len(declared) == 1 && w.Version == 1 && newest.Version == 1:
			problems = append(problems, formProblem{
				found:  w.ID,
				reason: "the rows are in this codec, the topology now says " + strconv.Quote(newest.ID),
				remedy: "change it back, read the old rows with serde.Evolve, or give the changed store a new name; `millrace reset` empties the old one",
			})
		case i >= 0:
			problems = append(problems, formProblem{
				found:  w.String(),
				reason: "rows were written in this codec, the topology now says " + strconv.Quote(declared[i].String()),
				remedy: "give every form a version of its own: what was written stays what it is",
			})
		case w.Version > newest.Version:
			problems = append(problems, formProblem{
				back: true, found: w.String(),
				reason: "rows may be written in this form, and the newest that the topology knows is " + strconv.Quote(newest.String()),
				remedy: "run the program that wrote it, or a newer one; to go back, declare its old form as a new version with a serde.From for this one",
			})
		default:
			names := make([]string, len(declared))
			for i, d := range declared {
				names[i] = d.String()
			}
			problems = append(problems, formProblem{
				found:  w.String(),
				reason: "rows may still be in this form, and the topology reads " + strconv.Quote(strings.Join(names, ", ")) + " only",
				remedy: "add a serde.From for it to serde.Evolve, or give the changed store a new name; `millrace reset` empties the old one",
			})
		}
	}
	return problems
}

// addForm adds a form to those that were written, oldest first.
func addForm(written []serde.Form, f serde.Form) []serde.Form {
	if slices.ContainsFunc(written, func(w serde.Form) bool { return w.Version == f.Version }) {
		return written
	}
	written = append(slices.Clone(written), f)
	slices.SortFunc(written, func(a, b serde.Form) int { return cmp.Compare(a.Version, b.Version) })
	return written
}

// writes is the form in which a store writes its values.
func writes(s store.Spec) serde.Form {
	forms := store.Forms(s)
	return forms[len(forms)-1]
}

// idBytesMax is the longest codec id that is written as it is: a Go type without a name writes itself out.
const idBytesMax = 1000

// clipID shortens an id, and keeps it different from others.
func clipID(id string) string {
	if len(id) <= idBytesMax {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return fmt.Sprintf("%s#%s", id[:idBytesMax-1-2*len(sum)], hex.EncodeToString(sum[:]))
}
