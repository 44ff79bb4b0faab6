package serde

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
)

// Form is one way in which the values of a store have been written: the version that their rows carry and the id of the codec.
type Form struct {
	Version uint16
	ID      string
}

// String is "version 2 (json:Payment)".
func (f Form) String() string { return fmt.Sprintf("version %d (%s)", f.Version, f.ID) }

// Versioned is what a Serde offers that also reads what older versions of its values were written as. Evolve makes one.
type Versioned[T any] interface {
	// Forms lists every form that DecodeVersion reads, oldest first. The last one is today's: what Append writes and Decode
	// reads.
	Forms() []Form
	// DecodeVersion decodes bytes that were written as that version; like Decode it does not keep src. A version that is not
	// in Forms is an error.
	DecodeVersion(src []byte, version uint16) (T, error)
}

// Forms lists what s reads, oldest first; the last is what it writes. A codec that is not Versioned has one form, version 1.
func Forms[T any](s Serde[T]) []Form {
	if v, ok := s.(Versioned[T]); ok {
		return v.Forms()
	}
	return []Form{{1, ID(s)}}
}

// Older is a former version of a value's type, and the way from it to N.
type Older[N any] struct {
	forms  []Form
	decode func(src []byte, version uint16) (N, error)
	usable func(Place) error
	err    error
}

// From says that values were written by s before, as version, and how one of them becomes a value of today. upgrade must be
// a pure function: it runs on every read of an old row until the row is next put. s may come from Evolve itself; then
// everything it reads is read too, step by step, and version is the newest of them.
func From[O, N any](version uint16, s Serde[O], upgrade func(O) (N, error)) Older[N] {
	if s == nil || upgrade == nil {
		return Older[N]{err: misdeclared("", "version "+strconv.Itoa(int(version))+" has no serde or no function to upgrade it")}
	}
	o := Older[N]{forms: Forms(s), usable: func(at Place) error { return Usable(s, at) }}
	id, old := ID(s), Versioned[O](nil)
	if unversioned(o.forms) {
		o.forms = []Form{{version, id}}
	} else if old = s.(Versioned[O]); newest(o.forms) != version {
		o.err = misdeclared(id, fmt.Sprintf("it is given as version %d and calls itself version %d", version, newest(o.forms)))
	}
	o.decode = func(src []byte, v uint16) (n N, err error) {
		var was O
		if old != nil {
			was, err = old.DecodeVersion(src, v)
		} else {
			was, err = s.Decode(src)
		}
		if err != nil {
			return n, err
		}
		if n, err = upgrade(was); err != nil {
			return n, &fault.Error{
				Code: "serde/upgrade", Kind: fault.Record, Thing: id, Value: "version " + strconv.Itoa(int(version)),
				Reason: "its upgrade function refused the value", Err: err,
			}
		}
		return n, nil
	}
	return o
}

// Evolve is the codec of store values whose type has changed: s writes them as version, and what older versions have
// written is read with its own codec and upgraded, whenever such a row is read. Rows are rewritten only when they are next put.
// A codec without Evolve is version 1, so the first change is
//
//	serde.Evolve(2, serde.JSON[PaymentV2](), serde.From(1, serde.JSON[PaymentV1](), upgrade))
//
// Old versions stay in the list for as long as rows of them may exist: a start is refused when the application has ever
// written a form that is not in it. A codec of Evolve is for values of stores only, since keys must not change and the records
// of topics carry no version. Mistakes in the list are found when the topology is built.
func Evolve[T any](version uint16, s Serde[T], older ...Older[T]) Serde[T] {
	e := evolved[T]{serde: s, older: map[uint16]func([]byte, uint16) (T, error){}}
	if s == nil {
		e.err = misdeclared("", "version "+strconv.Itoa(int(version))+" has no serde")
		e.forms = []Form{{version, e.ID()}}
		return e
	}
	if !unversioned(Forms(s)) {
		e.err = misdeclared(ID(s), "today's codec is one of Evolve already: add the new step to it, or put it into From")
	}
	if version == 0 {
		e.err = misdeclared(ID(s), "versions begin with 1")
	}
	for _, o := range older {
		if o.err != nil {
			e.err = o.err
		}
		for _, f := range o.forms {
			switch {
			case f.Version == 0 || f.Version >= version:
				e.err = misdeclared(ID(s), fmt.Sprintf("%s is not older than version %d", f, version))
			case e.older[f.Version] != nil:
				e.err = misdeclared(ID(s), fmt.Sprintf("version %d is there twice", f.Version))
			}
			e.older[f.Version] = o.decode
			e.forms = append(e.forms, f)
		}
		if o.usable != nil {
			e.parts = append(e.parts, o.usable)
		}
	}
	e.forms = append(e.forms, Form{version, ID(s)})
	slices.SortFunc(e.forms, func(a, b Form) int { return int(a.Version) - int(b.Version) })
	if n, ok := s.(Nullable[T]); ok {
		return evolvedNullable[T]{e, n}
	}
	return e
}

// unversioned reports whether forms are those of a codec without Evolve.
func unversioned(forms []Form) bool { return len(forms) == 1 && forms[0].Version == 1 }

func newest(forms []Form) uint16 { return forms[len(forms)-1].Version }

func misdeclared(id, reason string) error {
	return &fault.Error{Code: "serde/evolution", Kind: fault.Config, Thing: "serde.Evolve", Value: id, Reason: reason,
		Remedy: "list every version once, today's with the highest number"}
}

type evolved[T any] struct {
	serde Serde[T]
	forms []Form
	older map[uint16]func(src []byte, version uint16) (T, error)
	parts []func(Place) error // Usable of the older codecs
	err   error               // of the declaration
}

type evolvedNullable[T any] struct {
	evolved[T]
	Nullable[T]
}

// ID is that of today's codec: the form a store would have that never had another one.
func (e evolved[T]) ID() string {
	if e.serde == nil {
		return "evolve"
	}
	return ID(e.serde)
}

func (e evolved[T]) Forms() []Form { return e.forms }

func (e evolved[T]) Append(dst []byte, v T) ([]byte, error) {
	if e.err != nil {
		return dst, e.err
	}
	return e.serde.Append(dst, v)
}

func (e evolved[T]) Decode(src []byte) (T, error) {
	if e.err != nil {
		var zero T
		return zero, e.err
	}
	return e.serde.Decode(src)
}

func (e evolved[T]) DecodeVersion(src []byte, version uint16) (T, error) {
	decode := e.older[version]
	switch {
	case e.err != nil || version == newest(e.forms):
		return e.Decode(src)
	case decode == nil:
		var zero T
		return zero, unknownVersion(version, e.forms)
	default:
		return decode(src, version)
	}
}

// unknownVersion is the error of bytes whose version is not among forms.
func unknownVersion(version uint16, forms []Form) error {
	known := make([]string, len(forms))
	for i, f := range forms {
		known[i] = f.String()
	}
	e := &fault.Error{
		Code: "serde/version", Kind: fault.State, Thing: "stored value", Value: "version " + strconv.Itoa(int(version)),
		Reason: "this program reads " + strings.Join(known, ", "),
		Remedy: "keep a serde.From for every version that was ever written",
	}
	if version > newest(forms) {
		e.Remedy = "it was written by a newer program: run that one, or a newer one"
	}
	return e
}

func (e evolved[T]) Usable(at Place) error {
	if e.err != nil {
		return e.err
	}
	switch at {
	case StoreValue:
	case TopicKey, StoreKey:
		return unusable(e.ID(), at, "keys never change their type: a key of another type is another key",
			"declare another store or topic with the new key and move what is needed")
	default:
		return unusable(e.ID(), at, "records of a topic carry no version, so old ones cannot be told from new ones",
			"use the codec of one version here, or one that says so in each record, as Avro and Protobuf with a schema registry do")
	}
	for _, usable := range e.parts {
		if err := usable(at); err != nil {
			return err
		}
	}
	return Usable(e.serde, at)
}
