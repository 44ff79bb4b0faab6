// Package avro has codecs of Avro's binary form: Typed for Go structs, and Generic for plain Go maps. Both write the value
// alone, or, with a schema registry, Confluent's wire format, where the id of the writer's schema stands in front of each
// value (docs/format/schema-frame.md). What was written with another schema is read by Avro's own rules: fields are matched by name
// and alias, new ones take their default, numbers are widened.
package avro

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/registry"
)

// Must returns s, or panics: for codecs that are made where a program declares its topics and stores.
func Must[T any](s serde.Serde[T], err error) serde.Serde[T] {
	if err != nil {
		panic(err)
	}
	return s
}

// Option is a setting of Typed and Generic.
type Option func(*settings)

type settings struct {
	schema    string
	namespace string
	written   string
	registry  *registry.Registry
	subject   string
	oldest    int
}

// Schema gives the schema of Typed as text. Without it the schema is made from the Go type: fields are named by their tags
// `avro:"name"`, pointers are null or a value, and `avro:",default=0"` and `avro:",alias=old"` say what Avro's rules need to
// read what was written before.
func Schema(text string) Option { return func(s *settings) { s.schema = text } }

// Namespace is that of the record of a schema made from the Go type.
func Namespace(name string) Option { return func(s *settings) { s.namespace = name } }

// WrittenAs makes a codec that only reads: values without a registry that were written with another schema. It is what
// serde.From takes when the schema of a store's values has changed.
func WrittenAs(schema string) Option { return func(s *settings) { s.written = schema } }

// InRegistry makes a codec of Confluent's wire format. The schema is registered under subject (or, with registry.LookUpOnly,
// looked up) when the codec is made, and every version of the subject has to be readable then; while records are written
// nothing is asked, while they are read a schema is asked for once. By custom the subject is the topic's name and -key or -value.
func InRegistry(r *registry.Registry, subject string) Option {
	return func(s *settings) { s.registry, s.subject = r, subject }
}

// SinceVersion excuses the subject's versions below v from being readable, when no record of them is left.
func SinceVersion(v int) Option { return func(s *settings) { s.oldest = v } }

// form is what all codecs of this package share: a schema, and where its values come from.
type form struct {
	id       string
	schema   *avro.Schema // today's, which values are written with and read into
	writer   *avro.Schema // of values that are only read; nil if that is today's
	registry *registry.Registry
	subject  string
	frame    int // schema id of what is written
	keyless  string
	readers  readers
}

func newForm(schema *avro.Schema, s *settings) (*form, error) {
	f := &form{schema: schema, registry: s.registry, subject: s.subject}
	d := describe(schema)
	switch {
	case s.registry != nil && s.written != "":
		return nil, configError("schema/options", d.name, "", "WrittenAs is given beside a registry, where every value says what it was written with",
			"leave one of them out")
	case s.registry != nil:
		f.id = "avro-registry:" + s.subject
		return f, f.join(s)
	case s.written != "":
		w, err := parse(s.written, nil)
		if err != nil {
			return nil, err
		}
		if f.writer, err = resolve(w, schema, d.name, "the schema it was written with"); err != nil {
			return nil, err
		}
		d = describe(w)
	}
	f.id = fmt.Sprintf("avro:%s:%016x", d.name, d.hash)
	if d.maps {
		f.keyless = "its schema has a map, whose entries are written in any order, and the same key must always have the same bytes"
	}
	return f, nil
}

// join finds what the registry has under the subject, refuses what cannot be read, and gets the id of what is written.
func (f *form) join(s *settings) error {
	name := describe(f.schema).name
	if describe(f.schema).maps {
		f.keyless = "its schema has a map, whose entries are written in any order, and the same key must always have the same bytes"
	}
	versions, err := f.registry.Versions(f.subject)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.Number < s.oldest {
			continue
		}
		if _, err := f.reader(v.ID, v.Source); err != nil {
			var e *fault.Error
			if errors.As(err, &e) {
				e.Kind, e.Thing = fault.Config, fmt.Sprintf("version %d (id %d) of subject %q, read as", v.Number, v.ID, f.subject)
				e.Value = name
				e.Remedy = "give new fields a default and renamed ones an alias; if no record of that version is left, say so with SinceVersion"
			}
			return err
		}
	}
	f.frame, err = f.registry.ID(f.subject, sr.Schema{Type: sr.TypeAvro, Schema: f.schema.String()})
	if err != nil {
		return err
	}
	f.readers.put(f.frame, f.schema)
	return nil
}

// reader makes what reads values of one schema in the registry.
func (f *form) reader(id int, source registry.Source) (*avro.Schema, error) {
	thing := "schema id " + strconv.Itoa(id)
	if source.Type != sr.TypeAvro {
		return nil, &fault.Error{Code: "schema/type", Kind: fault.Record, Thing: thing, Value: source.Type.String(),
			Reason: "the value was written with a schema that is not Avro's", Remedy: "correct the writer, or read with its codec"}
	}
	w, err := parse(source.Text, source.References)
	if err != nil {
		var e *fault.Error
		if errors.As(err, &e) {
			e.Kind, e.Thing = fault.Record, thing
		}
		return nil, err
	}
	resolved, err := resolve(w, f.schema, describe(f.schema).name, thing)
	if err != nil {
		return nil, err
	}
	f.readers.put(id, resolved)
	return resolved, nil
}

// open finds the schema to read a value with, and the value. It may wait for the registry, once for each schema id.
func (f *form) open(src []byte) (*avro.Schema, []byte, error) {
	if f.registry == nil {
		if f.writer != nil {
			return f.writer, src, nil
		}
		return f.schema, src, nil
	}
	id, value, err := registry.ParseFrame(src, f.id)
	if err != nil {
		return nil, nil, err
	}
	if r := f.readers.get(id); r != nil {
		return r, value, nil
	}
	source, err := f.registry.Schema(id)
	if err != nil {
		return nil, nil, err
	}
	r, err := f.reader(id, source)
	return r, value, err
}

// begin appends what stands in front of a value.
func (f *form) begin(dst []byte) ([]byte, error) {
	switch {
	case f.registry != nil:
		return registry.AppendFrame(dst, f.frame), nil
	case f.writer != nil:
		return dst, &fault.Error{Code: "schema/read-only", Kind: fault.Config, Thing: f.id,
			Reason: "it was made to read values of another schema", Remedy: "write with a codec without WrittenAs"}
	}
	return dst, nil
}

func (f *form) ID() string { return f.id }

// Usable keeps codecs away from keys that they would not write the same again.
func (f *form) Usable(at serde.Place) error {
	reason, remedy := "", "use a codec without a registry for it: the id of a changed schema would make another key of the same value"
	switch {
	case at != serde.TopicKey && at != serde.StoreKey:
	case f.keyless != "":
		reason, remedy = f.keyless, "use a record of plain fields as the key"
	case at == serde.StoreKey && f.registry != nil:
		reason = "its bytes begin with the id of a schema, which may change"
	}
	if reason == "" {
		return nil
	}
	return &fault.Error{Code: "serde/place", Kind: fault.Config, Thing: at.String(), Value: f.id, Reason: reason, Remedy: remedy}
}

// readers are the schemas that a codec has met, by id. Reading one takes no lock.
type readers struct {
	mu   sync.Mutex
	byID atomic.Pointer[map[int]*avro.Schema]
}

// readersMax bounds what a codec keeps. Beyond it all are forgotten, and found again in the Registry.
const readersMax = 1000

func (r *readers) get(id int) *avro.Schema {
	m := r.byID.Load()
	if m == nil {
		return nil
	}
	return (*m)[id]
}

func (r *readers) put(id int, s *avro.Schema) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[int]*avro.Schema{}
	if old := r.byID.Load(); old != nil && len(*old) < readersMax {
		for k, v := range *old {
			m[k] = v
		}
	}
	m[id] = s
	r.byID.Store(&m)
}

// Typed is the codec of T, a struct, in Avro's binary form. Its ID tells the schema, so that a store whose schema has changed is
// refused at start unless serde.Evolve says how to read what is there; with a registry it tells the subject, and a
// changed schema is Avro's own business. For values that may be null use serde.Optional.
func Typed[T any](opts ...Option) (serde.Serde[T], error) {
	s := &settings{}
	for _, o := range opts {
		o(s)
	}
	t := reflect.TypeFor[T]()
	if t.Kind() == reflect.Pointer {
		return nil, configError("schema/type", "Go type", t.String(), "is a pointer", "give the struct, and put the codec into serde.Optional for values that may be null")
	}
	var schema *avro.Schema
	var err error
	if s.schema != "" {
		schema, err = parse(s.schema, nil)
	} else {
		var names []avro.SchemaOpt
		if s.namespace != "" {
			names = append(names, avro.WithNamespace(s.namespace))
		}
		if schema, err = avro.SchemaFor[T](names...); err != nil {
			err = &fault.Error{Code: "schema/invalid", Kind: fault.Config, Thing: "Go type", Value: t.String(),
				Reason: "no schema can be made of it", Remedy: "give the schema as text with avro.Schema", Err: err}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := fits[T](schema); err != nil {
		return nil, configError("schema/go-type", "Go type", t.String(), "the schema "+describe(schema).name+" does not fit it: "+err.Error(),
			"give every field of the schema a field in the struct, with a tag avro:\"name\" where the names differ")
	}
	f, err := newForm(schema, s)
	if err != nil {
		return nil, err
	}
	return &typed[T]{form: f}, nil
}

// fits tries whether T takes values of the schema: the fields are compared before the first byte is missed, and the types
// when they meet a value of zeros, in which strings and lists are empty and unions hold their first type.
func fits[T any](schema *avro.Schema) error {
	var v, zero T
	_, err := schema.Decode(nil, &v)
	var short *avro.ShortBufferError
	if err != nil && !errors.As(err, &short) {
		return err
	}
	_, err = schema.Decode(make([]byte, 4<<10), &zero)
	var semantic *avro.SemanticError
	if errors.As(err, &semantic) && semantic.Err == nil {
		return err
	}
	return nil
}

type typed[T any] struct{ *form }

func (t *typed[T]) Append(dst []byte, v T) ([]byte, error) {
	out, err := t.begin(dst)
	if err != nil {
		return dst, err
	}
	if out, err = t.schema.AppendEncode(out, &v); err != nil {
		return dst, &fault.Error{Code: "serde/encode", Kind: fault.Record, Thing: t.id, Reason: "the value does not fit the schema", Err: plain(err)}
	}
	return out, nil
}

func (t *typed[T]) Decode(src []byte) (T, error) {
	var v T
	schema, value, err := t.open(src)
	if err != nil {
		return v, err
	}
	rest, err := schema.Decode(value, &v)
	if err == nil && len(rest) > 0 {
		err = tooMany(rest)
	}
	if err != nil {
		var zero T
		return zero, t.refuse(src, err)
	}
	return v, nil
}

func tooMany(rest []byte) error { return fmt.Errorf("%d bytes are left behind the value", len(rest)) }

func (f *form) refuse(src []byte, err error) error {
	return &fault.Error{Code: "serde/decode", Kind: fault.Record, Thing: f.id, Value: strconv.Itoa(len(src)) + " bytes",
		Reason: "they do not fit the schema", Remedy: "check that the writer uses this schema, and whether it uses a schema registry", Err: plain(err)}
}

// plain leaves away what an error may quote of a value: payloads do not belong in logs.
func plain(err error) error {
	var semantic *avro.SemanticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &semantic) && semantic.Field != "":
		return fmt.Errorf("field %s: Go type %v, Avro type %s", semantic.Field, semantic.GoType, semantic.AvroType)
	case errors.As(err, &semantic):
		return fmt.Errorf("the Go type %v is not for the Avro type %s", semantic.GoType, semantic.AvroType)
	case strings.ContainsAny(err.Error(), `"`) || strings.HasPrefix(err.Error(), "time "):
		return nil
	}
	return err
}

func configError(code, thing, value, reason, remedy string) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.Config, Thing: thing, Value: value, Reason: reason, Remedy: remedy}
}
