package avro_test

import (
	"bytes"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/avro"
)

type address struct {
	Street string `avro:"street"`
	Zip    int32  `avro:"zip"`
}

type payment struct {
	Card    string            `avro:"card"`
	Cents   int64             `avro:"cents"`
	Rate    float64           `avro:"rate"`
	Paid    bool              `avro:"paid"`
	Raw     []byte            `avro:"raw"`
	At      time.Time         `avro:"at"`
	Note    *string           `avro:"note"`
	Tags    []string          `avro:"tags"`
	Home    address           `avro:"home"`
	Amounts map[string]int64  `avro:"amounts"`
	Homes   []address         `avro:"homes"`
	More    map[string]string `avro:"more"`
}

func somePayment() payment {
	note := "late"
	return payment{"4711", -5, 1.5, true, []byte{0, 1, 255}, time.UnixMilli(1234567890123).UTC(), &note, []string{"a", ""},
		address{"Main", 12345}, map[string]int64{"x": 1}, []address{{"A", 1}, {"B", 2}}, map[string]string{"k": "v"}}
}

func typed[T any](t testing.TB, opts ...avro.Option) serde.Serde[T] {
	t.Helper()
	s, err := avro.Typed[T](opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func generic(t testing.TB, schema string, opts ...avro.Option) serde.Serde[map[string]any] {
	t.Helper()
	s, err := avro.Generic(schema, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// roundTrip checks that v comes back, that it is appended, and that the value is its own.
func roundTrip[T any](t *testing.T, s serde.Serde[T], v T) []byte {
	t.Helper()
	raw, err := s.Append([]byte("kept"), v)
	if err != nil || !bytes.HasPrefix(raw, []byte("kept")) {
		t.Fatalf("append %v: %q, %v", v, raw, err)
	}
	got, err := s.Decode(raw[4:])
	if err != nil {
		t.Fatalf("decode %v: %v", v, err)
	}
	for i := range raw {
		raw[i] ^= 0xAA
	}
	if !reflect.DeepEqual(got, v) {
		t.Fatalf("%#v came back as %#v", v, got)
	}
	for i := range raw {
		raw[i] ^= 0xAA
	}
	return raw[4:]
}

func TestTyped(t *testing.T) {
	s := typed[payment](t, avro.Namespace("com.acme"))
	roundTrip(t, s, somePayment())
	if id := serde.ID(s); !strings.HasPrefix(id, "avro:com.acme.payment:") {
		t.Errorf("id %s", id)
	}
	empty := payment{At: time.UnixMilli(0).UTC(), Raw: []byte{}, Tags: []string{}, Homes: []address{}, Amounts: map[string]int64{}, More: map[string]string{}}
	roundTrip(t, s, empty)
	text := typed[address](t, avro.Schema(`{"type":"record","name":"A","fields":[{"name":"street","type":"string"},{"name":"zip","type":"int"}]}`))
	if raw := roundTrip(t, text, address{"Main", 7}); string(raw) != "\x08Main\x0e" {
		t.Errorf("% x is not what Avro says", raw)
	}
	number := typed[int64](t, avro.Schema(`"long"`))
	roundTrip(t, number, -3)
	null := serde.Optional(typed[address](t))
	if n, ok := null.(serde.Nullable[*address]); !ok || !n.IsNull(nil) {
		t.Error("no null")
	}
}

const everything = `{"type":"record","name":"Everything","namespace":"com.acme","fields":[
	{"name":"b","type":"boolean"},{"name":"i","type":"int"},{"name":"l","type":"long"},{"name":"f","type":"float"},{"name":"d","type":"double"},
	{"name":"s","type":"string"},{"name":"raw","type":"bytes"},{"name":"fix","type":{"type":"fixed","name":"Four","size":4}},
	{"name":"e","type":{"type":"enum","name":"Suit","symbols":["HEARTS","SPADES"]}},
	{"name":"list","type":{"type":"array","items":{"type":"array","items":"bytes"}}},
	{"name":"map","type":{"type":"map","values":"long"}},
	{"name":"note","type":["null","string",{"type":"record","name":"Inner","fields":[{"name":"again","type":"Four"},{"name":"next","type":["null","Inner"]}]}]},
	{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
	{"name":"date","type":{"type":"int","logicalType":"date"}},
	{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
	{"name":"perhaps","type":["null",{"type":"long","logicalType":"timestamp-micros"}]}]}`

func someMap() map[string]any {
	return map[string]any{
		"b": true, "i": int32(-3), "l": int64(1) << 60, "f": float32(1.5), "d": -2.5, "s": "grün", "raw": []byte{1, 2}, "fix": []byte("four"),
		"e": "SPADES", "list": []any{[]any{[]byte("x"), []byte("y")}, []any{}}, "map": map[string]any{"k": int64(7)},
		"note": map[string]any{"com.acme.Inner": map[string]any{"again": []byte("five"), "next": map[string]any{"com.acme.Inner": map[string]any{"again": []byte("six!"), "next": nil}}}},
		"at":   time.UnixMilli(1700000000123).UTC(), "date": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), "price": big.NewRat(1999, 100),
		"perhaps": map[string]any{"long.timestamp-micros": time.UnixMicro(1700000000123456).UTC()},
	}
}

func TestGeneric(t *testing.T) {
	s := generic(t, everything)
	raw := roundTrip(t, s, someMap())
	codec, err := goavro.NewCodec(everything)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := codec.BinaryFromNative(nil, someMap()); err != nil || !bytes.Equal(raw, want) {
		t.Errorf("% x is not goavro's % x, %v", raw, want, err)
	}
	got, err := s.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	list := got["list"].([]any)[0].([]any)
	if _ = append(list[0].([]byte), "overwritten"...); string(list[1].([]byte)) != "y" {
		t.Error("an append to one value reaches into the next")
	}
	if n, ok := s.(serde.Nullable[map[string]any]); !ok || !n.IsNull(nil) || n.IsNull(map[string]any{}) {
		t.Error("a nil map is null, an empty one is not")
	}
}

// Both codecs of a schema are the same on disk.
func TestTypedAndGenericMeet(t *testing.T) {
	const schema = `{"type":"record","name":"address","fields":[{"name":"street","type":"string"},{"name":"zip","type":"int"}]}`
	a, b := typed[address](t), generic(t, schema)
	if serde.ID(a) != serde.ID(b) {
		t.Errorf("ids %s and %s", serde.ID(a), serde.ID(b))
	}
	raw, err := a.Append(nil, address{"Main", 7})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Decode(raw); err != nil || !reflect.DeepEqual(got, map[string]any{"street": "Main", "zip": int32(7)}) {
		t.Errorf("%v, %v", got, err)
	}
}

// The id of a plain codec changes with what its bytes mean, and with nothing else.
func TestID(t *testing.T) {
	const base = `{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}`
	id := serde.ID(generic(t, base))
	if id != "avro:R:2a8e465893ce54f7" {
		t.Errorf("id %s: existing stores would be refused", id)
	}
	for _, c := range []struct {
		name, schema string
		same         bool
	}{
		{"spaces and documentation", `{ "type":"record", "doc":"x", "name":"R", "fields":[{"name":"a","type":{"type":"long"},"doc":"y"}]}`, true},
		{"a default and an alias", `{"type":"record","name":"R","aliases":["S"],"fields":[{"name":"a","type":"long","default":3,"aliases":["b"]}]}`, true},
		{"another field", `{"type":"record","name":"R","fields":[{"name":"b","type":"long"}]}`, false},
		{"another type", `{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`, false},
		{"another meaning", `{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"long","logicalType":"timestamp-millis"}}]}`, false},
		{"another unit", `{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"long","logicalType":"timestamp-micros"}}]}`, false},
		{"another name", `{"type":"record","name":"S","fields":[{"name":"a","type":"long"}]}`, false},
	} {
		if got := serde.ID(generic(t, c.schema)); (got == id) != c.same {
			t.Errorf("%s: id %s, that of the base is %s", c.name, got, id)
		}
	}
}

// evolutions are Avro's rules, for both codecs: what was written with one schema, read with another.
var evolutions = []struct {
	name           string
	writer, reader string
	value          map[string]any
	want           map[string]any // nil: refused
}{
	{"the same", `{"name":"a","type":"long"}`, `{"name":"a","type":"long"}`, m("a", int64(1)), m("a", int64(1))},
	{"a field with a default is new", `{"name":"a","type":"long"}`, `{"name":"a","type":"long"},{"name":"b","type":"string","default":"none"}`, m("a", int64(1)), m("a", int64(1), "b", "none")},
	{"a nullable field is new", `{"name":"a","type":"long"}`, `{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null}`, m("a", int64(1)), m("a", int64(1), "b", nil)},
	{"a field without a default is new", `{"name":"a","type":"long"}`, `{"name":"a","type":"long"},{"name":"b","type":"string"}`, m("a", int64(1)), nil},
	{"a field is gone", `{"name":"a","type":"long"},{"name":"b","type":{"type":"array","items":"string"}}`, `{"name":"a","type":"long"}`, m("a", int64(1), "b", []any{"x"}), m("a", int64(1))},
	{"renamed by alias", `{"name":"old","type":"long"}`, `{"name":"a","type":"long","aliases":["old"]}`, m("old", int64(1)), m("a", int64(1))},
	{"renamed without alias", `{"name":"old","type":"long"}`, `{"name":"a","type":"long"}`, m("old", int64(1)), nil},
	{"another order", `{"name":"a","type":"long"},{"name":"b","type":"string"}`, `{"name":"b","type":"string"},{"name":"a","type":"long"}`, m("a", int64(1), "b", "x"), m("a", int64(1), "b", "x")},
	{"int to long", `{"name":"a","type":"int"}`, `{"name":"a","type":"long"}`, m("a", int32(1)), m("a", int64(1))},
	{"long to int", `{"name":"a","type":"long"}`, `{"name":"a","type":"int"}`, m("a", int64(1)), nil},
	{"string to bytes", `{"name":"a","type":"string"}`, `{"name":"a","type":"bytes"}`, m("a", "x"), m("a", []byte("x"))},
	{"string to long", `{"name":"a","type":"string"}`, `{"name":"a","type":"long"}`, m("a", "x"), nil},
	{"value to union", `{"name":"a","type":"long"}`, `{"name":"a","type":["null","long"]}`, m("a", int64(1)), m("a", m("long", int64(1)))},
	{"union to value", `{"name":"a","type":["null","long"]}`, `{"name":"a","type":"long"}`, m("a", m("long", int64(1))), nil}, // null would have no place
	{"an enum symbol that is new has a default", `{"name":"a","type":{"type":"enum","name":"E","symbols":["X","Y"]}}`,
		`{"name":"a","type":{"type":"enum","name":"E","symbols":["X","OTHER"],"default":"OTHER"}}`, m("a", "Y"), m("a", "OTHER")},
	{"another scale", `{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}`,
		`{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}}`, m("a", big.NewRat(1, 2)), nil},
}

func m(kv ...any) map[string]any {
	out := map[string]any{}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i].(string)] = kv[i+1]
	}
	return out
}

func record(fields string) string { return `{"type":"record","name":"R","fields":[` + fields + `]}` }

func TestEvolution(t *testing.T) {
	for _, c := range evolutions {
		t.Run(c.name, func(t *testing.T) {
			raw, err := generic(t, record(c.writer)).Append(nil, c.value)
			if err != nil {
				t.Fatal(err)
			}
			s, err := avro.Generic(record(c.reader), avro.WrittenAs(record(c.writer)))
			if c.want == nil {
				if fault.Code(err) != "schema/incompatible" || !strings.Contains(err.Error(), "R") {
					t.Fatalf("%v, want schema/incompatible", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Decode(raw); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, %v, want %v", got, err, c.want)
			}
			if _, err := s.Append(nil, c.want); fault.Code(err) != "schema/read-only" {
				t.Errorf("append: %v", err)
			}
			if id, want := serde.ID(s), serde.ID(generic(t, record(c.writer))); id != want {
				t.Errorf("id %s, want %s, that of what was written", id, want)
			}
		})
	}
}

type paymentV2 struct {
	Number string  `avro:"number,alias=card"`
	Cents  int64   `avro:"cents"`
	Shop   string  `avro:"shop,default=none"`
	Note   *string `avro:"note"`
}

// A store whose schema changes: the old one is read by Avro's rules, as version 1.
func TestEvolveWithAvro(t *testing.T) {
	const old = `{"type":"record","name":"paymentV2","fields":[{"name":"card","type":"string"},{"name":"cents","type":"int"},{"name":"gone","type":{"type":"map","values":"int"}}]}`
	before := generic(t, old)
	raw, err := before.Append(nil, m("card", "4711", "cents", int32(5), "gone", m("x", int32(1))))
	if err != nil {
		t.Fatal(err)
	}
	s := serde.Evolve(2, typed[paymentV2](t),
		serde.From(1, typed[paymentV2](t, avro.WrittenAs(old)), func(p paymentV2) (paymentV2, error) { return p, nil }))
	if err := serde.Usable(s, serde.StoreValue); err != nil {
		t.Fatal(err)
	}
	if forms := serde.Forms(s); forms[0] != (serde.Form{Version: 1, ID: serde.ID(before)}) {
		t.Errorf("forms %v, was written as %s", forms, serde.ID(before))
	}
	got, err := serde.NewDecoder(s).DecodeVersion(raw, 1)
	if err != nil || got != (paymentV2{"4711", 5, "none", nil}) {
		t.Errorf("%+v, %v", got, err)
	}
	roundTrip(t, s, got)
}

func TestKeys(t *testing.T) {
	plain, maps := typed[address](t), typed[payment](t)
	for _, at := range []serde.Place{serde.TopicKey, serde.StoreKey, serde.TopicValue, serde.StoreValue} {
		if err := serde.Usable(plain, at); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		err := serde.Usable(maps, at)
		if isKey := at == serde.TopicKey || at == serde.StoreKey; (fault.Code(err) == "serde/place") != isKey {
			t.Errorf("a schema with a map as %s: %v", at, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	address1, err := typed[address](t).Append(nil, address{"Main", 1})
	if err != nil {
		t.Fatal(err)
	}
	g := generic(t, record(`{"name":"a","type":"long"},{"name":"u","type":["null","string"]}`))
	decode := func(raw []byte) error { _, err := typed[address](t).Decode(raw); return err }
	decodeGeneric := func(raw []byte) error { _, err := g.Decode(raw); return err }
	appendGeneric := func(v map[string]any) error { _, err := g.Append(nil, v); return err }
	made := func(_ any, err error) error { return err }
	mk := func(s serde.Serde[map[string]any], err error) error { return made(s, err) }
	for _, c := range []struct {
		name string
		err  error
		code string
		says string
	}{
		{"no bytes", decode(nil), "serde/decode", "avro:address:"},
		{"cut", decode(address1[:3]), "serde/decode", "3 bytes"},
		{"too many", decode(append(bytes.Clone(address1), 1)), "serde/decode", "1 bytes are left"},
		{"generic: no bytes", decodeGeneric(nil), "serde/decode", "avro:R:"},
		{"generic: too many", decodeGeneric([]byte{2, 0, 9}), "serde/decode", "1 bytes are left"},
		{"generic: no such type", decodeGeneric([]byte{2, 9}), "serde/decode", ""},
		{"generic: nil", appendGeneric(nil), "serde/null", ""},
		{"generic: a field is missing", appendGeneric(m("u", nil)), "serde/encode", "every field"},
		{"generic: not a union", appendGeneric(m("a", int64(1), "u", "secret")), "serde/encode", "every field"},
		{"pointer", func() error { _, err := avro.Typed[*address](); return err }(), "schema/type", "serde.Optional"},
		{"no struct", func() error { _, err := avro.Typed[int](); return err }(), "schema/invalid", "avro.Schema"},
		{"no schema", func() error { _, err := avro.Typed[address](avro.Schema("{")); return err }(), "schema/invalid", ""},
		{"a field of the schema is not in the struct", func() error {
			_, err := avro.Typed[address](avro.Schema(record(`{"name":"city","type":"string"}`)))
			return err
		}(), "schema/go-type", "city"},
		{"a field has another type", func() error {
			_, err := avro.Typed[address](avro.Schema(record(`{"name":"street","type":"long"}`)))
			return err
		}(), "schema/go-type", "street"},
		{"generic: no record", mk(avro.Generic(`"long"`)), "schema/type", "record"},
		{"generic: no schema", mk(avro.Generic(`long`)), "schema/invalid", ""},
		{"generic: two schemas", mk(avro.Generic(everything, avro.Schema(everything))), "schema/options", ""},
	} {
		if fault.Code(c.err) != c.code || !strings.Contains(c.err.Error(), c.says) || strings.Contains(c.err.Error(), "secret") {
			t.Errorf("%s: %v, want %s that says %q", c.name, c.err, c.code, c.says)
		}
	}
}

func TestMust(t *testing.T) {
	defer func() {
		if fault.Code(recover().(error)) != "schema/invalid" {
			t.Error("not the error")
		}
	}()
	avro.Must(avro.Typed[address](avro.Schema("?")))
}

// hostile are values that ask for much more than they are.
var hostile = []struct {
	name, schema string
	raw          []byte
}{
	{"an array of two thousand million", record(`{"name":"a","type":{"type":"array","items":"long"}}`), []byte{0xfe, 0xff, 0xff, 0xff, 0x0f}},
	{"a map of two thousand million", record(`{"name":"a","type":{"type":"map","values":"long"}}`), []byte{0xfe, 0xff, 0xff, 0xff, 0x0f}},
	{"a negative count", record(`{"name":"a","type":{"type":"array","items":"long"}}`), []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 2, 0}},
	{"the least count", record(`{"name":"a","type":{"type":"array","items":"long"}}`), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0}},
	{"nulls without end", record(`{"name":"a","type":{"type":"array","items":"null"}}`), []byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0}},
	{"nulls without end, many times", record(`{"name":"a","type":{"type":"array","items":{"type":"array","items":"null"}}}`),
		append(append([]byte{0x80, 0x02}, bytes.Repeat([]byte{0xfe, 0xff, 0x07, 0}, 128)...), 0)},
	{"deeper than any stack", record(`{"name":"next","type":["null","R"]}`), append(bytes.Repeat([]byte{2}, 1<<20), 0)},
	{"arrays in arrays", record(`{"name":"next","type":{"type":"array","items":"R"}}`), bytes.Repeat([]byte{2}, 1<<20)},
	{"a long string", record(`{"name":"a","type":"string"}`), []byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 'x'}},
	{"a negative string", record(`{"name":"a","type":"bytes"}`), []byte{1}},
}

func TestHostileBytes(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			for kind, s := range map[string]serde.Serde[map[string]any]{"straight": generic(t, c.schema),
				"resolved": generic(t, strings.Replace(c.schema, `"fields":[`, `"fields":[{"name":"new","type":"int","default":1},`, 1), avro.WrittenAs(c.schema))} {
				size := testing.Benchmark(func(b *testing.B) {
					b.ReportAllocs()
					if _, err := s.Decode(c.raw); fault.Code(err) != "serde/decode" {
						t.Errorf("%s: %v", kind, err)
					}
				}).MemBytes
				if size > 64<<20 {
					t.Errorf("%s: %d bytes make %d bytes of garbage", kind, len(c.raw), size)
				}
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	g := generic(f, everything)
	tight := typed[payment](f)
	loop := generic(f, record(`{"name":"next","type":["null","R",{"type":"map","values":"R"}]},{"name":"l","type":{"type":"array","items":"null"}}`))
	older := generic(f, strings.Replace(everything, `"fields":[`, `"fields":[{"name":"new","type":"int","default":1},`, 1), avro.WrittenAs(everything))
	if raw, err := g.Append(nil, someMap()); err != nil {
		f.Fatal(err)
	} else {
		f.Add(raw)
	}
	if raw, err := tight.Append(nil, somePayment()); err != nil {
		f.Fatal(err)
	} else {
		f.Add(raw)
	}
	for _, h := range hostile {
		f.Add(h.raw[:min(len(h.raw), 1<<10)])
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		keep := bytes.Clone(src)
		for _, s := range []serde.Serde[map[string]any]{g, loop, older} {
			v, err := s.Decode(src)
			if err != nil && fault.Code(err) != "serde/decode" {
				t.Fatal(err)
			}
			if err == nil && s != older {
				if _, err := s.Append(nil, v); err != nil {
					t.Fatalf("% x decodes to %v, which has no form: %v", src, v, err)
				}
			}
		}
		if _, err := tight.Decode(src); err != nil && fault.Code(err) != "serde/decode" {
			t.Fatal(err)
		}
		if !bytes.Equal(src, keep) {
			t.Fatal("the bytes were changed")
		}
	})
}

// goavro and the walk agree on what a value is: whatever was written is let through.
func FuzzWalk(f *testing.F) {
	f.Add("x", int64(3), uint8(7))
	s := generic(f, everything)
	f.Fuzz(func(t *testing.T, text string, n int64, count uint8) {
		v := someMap()
		v["s"], v["l"], v["raw"] = text, n, []byte(text)
		list, entries := make([]any, count), map[string]any{}
		for i := range list {
			list[i] = []any{[]byte(text)}
			entries[fmt.Sprint(i)] = n
		}
		v["list"], v["map"] = list, entries
		raw, err := s.Append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Decode(raw); err != nil || !reflect.DeepEqual(got, v) {
			t.Fatalf("%v, %v", got, err)
		}
	})
}

func BenchmarkTyped(b *testing.B) {
	s := typed[address](b)
	raw, _ := s.Append(nil, address{"Main", 7})
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			raw, _ = s.Append(raw[:0], address{"Main", 7})
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = s.Decode(raw)
		}
	})
}
