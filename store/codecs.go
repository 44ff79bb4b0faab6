package store

import (
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/serde"
)

// codecs is what a declaration says of its codecs beside their ids.
type codecs interface {
	forms() []serde.Form
	usable() error
}

// Forms lists every form that a store reads its values from, oldest first; the last is what it writes (serde.Evolve). The ids
// of the forms are to ValueID as their codecs are to the store's.
func Forms(s Spec) []serde.Form {
	if c := s.settings().codecs; c != nil {
		if forms := c.forms(); len(forms) > 0 {
			return forms
		}
	}
	return []serde.Form{{Version: 1, ID: s.ValueID()}}
}

// Usable reports whether the codecs of a declaration can be those of a store (serde.Restricted), its time to live can be, and
// it has the functions it needs: nil, or why not.
func Usable(s Spec) error {
	o := s.settings()
	if err := o.ttl.Validate(); err != nil {
		return err
	}
	if o.lacks != "" {
		return errNoFunction(o.lacks)
	}
	if o.codecs != nil {
		return o.codecs.usable()
	}
	return nil
}

// sameStore reports whether two declarations are of the same rows: a version that only one of them knows would be read as another.
func sameStore(a, b Spec) bool {
	return a.Kind() == b.Kind() && a.KeyID() == b.KeyID() && a.ValueID() == b.ValueID() && slices.Equal(Forms(a), Forms(b))
}

// formsOf names the codec of a store's values, with its versions if it has any.
func formsOf(s Spec) string {
	if forms := Forms(s); len(forms) > 1 || forms[0].Version > 1 {
		return fmt.Sprint(forms)
	}
	return s.ValueID()
}

// codecsOf are the codecs of a store with keys and values.
type codecsOf[K, V any] struct {
	key   serde.Serde[K]
	value serde.Serde[V]
}

func (c codecsOf[K, V]) forms() []serde.Form { return serde.Forms(c.value) }

func (c codecsOf[K, V]) usable() error {
	if err := serde.Usable(c.key, serde.StoreKey); err != nil {
		return err
	}
	return serde.Usable(c.value, serde.StoreValue)
}

// valueCodec is the codec of a store that makes its own keys.
type valueCodec[V any] struct{ value serde.Serde[V] }

func (c valueCodec[V]) forms() []serde.Form { return serde.Forms(c.value) }
func (c valueCodec[V]) usable() error       { return serde.Usable(c.value, serde.StoreValue) }

// publishedCodec is the codec of a store whose values also go to a topic, which has no room for a version.
type publishedCodec[V any] struct{ value serde.Serde[V] }

func (c publishedCodec[V]) forms() []serde.Form { return nil }
func (c publishedCodec[V]) usable() error       { return serde.Usable(c.value, serde.TopicValue) }

// mapCodecs are the codecs of a store of maps.
type mapCodecs[K, S, V any] struct {
	codecsOf[K, V]
	sub serde.Serde[S]
}

func (c mapCodecs[K, S, V]) forms() []serde.Form {
	forms := append([]serde.Form(nil), c.codecsOf.forms()...)
	for i := range forms {
		forms[i].ID = mapValueID(serde.ID(c.sub), forms[i].ID)
	}
	return forms
}

func (c mapCodecs[K, S, V]) usable() error {
	if err := serde.Usable(c.sub, serde.StoreKey); err != nil {
		return err
	}
	return c.codecsOf.usable()
}

func mapValueID(sub, value string) string { return "{" + sub + ": " + value + "}" }
