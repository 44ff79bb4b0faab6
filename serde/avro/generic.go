package avro

import (
	"fmt"

	"github.com/linkedin/goavro/v2"
	"github.com/twmb/avro"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
)

// Generic is the codec of records without a Go type, in goavro's native form: map[string]any with int32, int64, float32,
// float64, bool, string, []byte, []any, nested maps, time.Time and time.Duration for logical times, *big.Rat for decimals; a
// value of a union is nil, or a map of one entry whose key is the type: map[string]any{"string": "x"}. A nil map stands for
// Kafka's null. A decoded value is the caller's to keep and to change.
//
// Values that were written with another schema come back in the form of this one, by Avro's rules.
func Generic(schema string, opts ...Option) (serde.Serde[map[string]any], error) {
	s := &settings{}
	for _, o := range opts {
		o(s)
	}
	if s.schema != "" || s.namespace != "" {
		return nil, configError("schema/options", "Generic", "", "is given a second schema or a namespace", "give the schema as the first argument, whole")
	}
	parsed, err := parse(schema, nil)
	if err != nil {
		return nil, err
	}
	root := parsed.Root()
	if root.Type != "record" {
		return nil, configError("schema/type", "Avro schema", nameOf(root), "is a "+root.Type+", and generic values are records",
			"wrap it into a record, or use Typed")
	}
	codec, err := goavro.NewCodec(parsed.String())
	if err != nil {
		return nil, invalid(nameOf(root), err)
	}
	f, err := newForm(parsed, s)
	if err != nil {
		return nil, err
	}
	g := &generic{form: f, codec: codec}
	d := describe(parsed)
	if d.unbounded {
		g.walk = newWalker(parsed)
	}
	g.copies = d.bytes
	return g, nil
}

type generic struct {
	*form
	codec  *goavro.Codec
	walk   walker // nil when every value is about as large as its bytes
	copies bool   // values would be part of the bytes they were decoded from
}

func (g *generic) IsNull(v map[string]any) bool { return v == nil }

func (g *generic) Append(dst []byte, v map[string]any) (out []byte, err error) {
	if v == nil {
		return dst, &fault.Error{Code: "serde/null", Kind: fault.Record, Thing: g.id, Reason: "a nil map stands for null, which has no bytes",
			Remedy: "write a null instead, or a map"}
	}
	if out, err = g.begin(dst); err != nil {
		return dst, err
	}
	defer func() {
		if p := recover(); p != nil { // goavro asks values what they are, and some Go types it does not expect
			out, err = dst, g.unfit(fmt.Errorf("%v", p))
		}
	}()
	if out, err = g.codec.BinaryFromNative(out, v); err != nil {
		return dst, g.unfit(nil)
	}
	return out, nil
}

func (g *generic) unfit(err error) error {
	return &fault.Error{Code: "serde/encode", Kind: fault.Record, Thing: g.id, Reason: "the value does not fit the schema", Err: err,
		Remedy: "give every field, with the Go type that goavro has for it; a value of a union is a map from the type's name to the value"}
}

func (g *generic) Decode(src []byte) (v map[string]any, err error) {
	schema, value, err := g.open(src)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, g.refuse(src, nil)
		}
	}()
	if schema != g.schema {
		if value, err = g.translate(schema, value); err != nil {
			return nil, g.refuse(src, err)
		}
	} else if g.walk != nil {
		empty := emptyMax
		if _, err := g.walk(value, 0, &empty); err != nil {
			return nil, g.refuse(src, err)
		}
	}
	if g.copies {
		value = append([]byte(nil), value...)
	}
	native, rest, err := g.codec.NativeFromBinary(value)
	if err == nil && len(rest) > 0 {
		err = tooMany(rest)
	} else if err != nil {
		err = nil // its text may quote the value
		return nil, g.refuse(src, err)
	}
	record, ok := native.(map[string]any)
	if err != nil || !ok {
		return nil, g.refuse(src, err)
	}
	if g.copies {
		fence(record)
	}
	return record, nil
}

// translate reads a value of the writer's schema by Avro's rules and writes it with today's, for goavro, which knows one
// schema only.
func (g *generic) translate(schema *avro.Schema, value []byte) ([]byte, error) {
	var v any
	rest, err := schema.Decode(value, &v, avro.TaggedUnions())
	if err == nil && len(rest) > 0 {
		err = tooMany(rest)
	}
	if err != nil {
		return nil, err
	}
	return g.schema.Encode(v)
}

// fence keeps an append to one byte slice from writing into the next: all are parts of one.
func fence(v any) any {
	switch v := v.(type) {
	case []byte:
		return v[:len(v):len(v)]
	case map[string]any:
		for k, e := range v {
			switch e.(type) {
			case []byte, map[string]any, []any:
				v[k] = fence(e)
			}
		}
	case []any:
		for i := range v {
			v[i] = fence(v[i])
		}
	}
	return v
}
