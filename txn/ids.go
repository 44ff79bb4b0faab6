package txn

import (
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
)

// TransactionalID is the name of one transactional producer of an application (docs/format/transactional-id.md):
//
//	millrace:<app>:<instance>:<worker>:<0|1>
//
// Since ':' is legal in neither app nor instance, ids parse exactly, and no application's ids are a prefix of another's.
type TransactionalID struct {
	App      string
	Instance string
	Worker   int
	Slot     int // a worker may alternate two producers
}

const (
	idPrefix   = "millrace:"
	idBytesMax = 300 // leaves room in the commit metadata
)

// NewTransactionalID checks its parts. The error is a *fault.Error with code "txn/id".
func NewTransactionalID(app, instance string, worker, slot int) (TransactionalID, error) {
	id := TransactionalID{App: app, Instance: instance, Worker: worker, Slot: slot}
	bad := func(thing, value, reason string) (TransactionalID, error) {
		return TransactionalID{}, &fault.Error{
			Code: "txn/id", Kind: fault.Config, Thing: thing, Value: value, Reason: reason,
			Remedy: "choose a shorter name of letters, digits, '.', '_' and '-'",
		}
	}
	switch {
	case !legalPart(app):
		return bad("application id", app, "it must not be empty and must not contain ':', a space or a control character")
	case !legalPart(instance):
		return bad("instance name", instance, "it must not be empty and must not contain ':', a space or a control character")
	case worker < 0 || slot < 0 || slot > 1:
		return bad("worker", strconv.Itoa(worker)+":"+strconv.Itoa(slot), "workers count from 0, and have two slots, 0 and 1")
	case len(id.String()) > idBytesMax:
		return bad("transactional id", id.String(), "it has more than "+strconv.Itoa(idBytesMax)+" bytes")
	}
	return id, nil
}

// String is the id as the broker knows it.
func (id TransactionalID) String() string {
	return idPrefix + id.App + ":" + id.Instance + ":" + strconv.Itoa(id.Worker) + ":" + strconv.Itoa(id.Slot)
}

// Pair is the same worker's other id.
func (id TransactionalID) Pair() TransactionalID {
	id.Slot = 1 - id.Slot
	return id
}

// ParseTransactionalID reads an id back. ok is false for every string that String does not produce.
func ParseTransactionalID(s string) (id TransactionalID, ok bool) {
	rest, found := strings.CutPrefix(s, idPrefix)
	if !found {
		return TransactionalID{}, false
	}
	parts := strings.Split(rest, ":")
	if len(parts) != 4 {
		return TransactionalID{}, false
	}
	worker, err := strconv.Atoi(parts[2])
	if err != nil {
		return TransactionalID{}, false
	}
	slot, err := strconv.Atoi(parts[3])
	if err != nil {
		return TransactionalID{}, false
	}
	id, err = NewTransactionalID(parts[0], parts[1], worker, slot)
	// "+1", "01" and their like are numbers to strconv, but not to us.
	if err != nil || id.String() != s {
		return TransactionalID{}, false
	}
	return id, true
}

func legalPart(s string) bool {
	if s == "" {
		return false
	}
	for _, r := range s {
		if r == ':' || r <= ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}
