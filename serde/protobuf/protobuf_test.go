package protobuf_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/protobuf"
	"github.com/millrace-io/millrace/serde/registry"
)

func roundTrip[M proto.Message](t *testing.T, s serde.Serde[M], v M) []byte {
	t.Helper()
	raw, err := s.Append([]byte("kept"), v)
	if err != nil || !bytes.HasPrefix(raw, []byte("kept")) {
		t.Fatalf("%q, %v", raw, err)
	}
	again, _ := s.Append(nil, v)
	if !bytes.Equal(raw[4:], again) {
		t.Fatalf("% x and then % x", raw[4:], again)
	}
	got, err := s.Decode(raw[4:])
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if !proto.Equal(got, v) {
		t.Fatalf("%v came back as %v", v, got)
	}
	return again
}

func someStruct(t testing.TB) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(map[string]any{"a": 1.5, "b": "x", "c": []any{true, nil}, "d": map[string]any{"e": "f"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOf(t *testing.T) {
	s := protobuf.Of[timestamppb.Timestamp]()
	if raw := roundTrip(t, s, &timestamppb.Timestamp{Seconds: 5}); !bytes.Equal(raw, []byte{8, 5}) {
		t.Errorf("% x", raw)
	}
	if raw := roundTrip(t, s, &timestamppb.Timestamp{}); len(raw) != 0 {
		t.Errorf("% x", raw)
	}
	roundTrip(t, protobuf.Of[structpb.Struct](), someStruct(t))
	if id := serde.ID(s); id != "protobuf:google.protobuf.Timestamp" {
		t.Errorf("id %s", id)
	}
	if n, ok := s.(serde.Nullable[*timestamppb.Timestamp]); !ok || !n.IsNull(nil) || n.IsNull(&timestamppb.Timestamp{}) {
		t.Error("nil is null, empty is not")
	}
}

// A field that this program does not know is kept.
func TestUnknownFields(t *testing.T) {
	newer, err := proto.Marshal(&timestamppb.Timestamp{Seconds: 5, Nanos: 7})
	if err != nil {
		t.Fatal(err)
	}
	s := protobuf.Of[wrapperspb.Int64Value]()
	v, err := s.Decode(newer)
	if err != nil || v.Value != 5 {
		t.Fatalf("%v, %v", v, err)
	}
	if raw, err := s.Append(nil, v); err != nil || !bytes.Equal(raw, newer) {
		t.Errorf("% x, %v, want % x", raw, err, newer)
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		s    serde.Serde[*timestamppb.Timestamp]
		at   serde.Place
		code string
	}{
		{protobuf.Of[timestamppb.Timestamp](), serde.TopicKey, "serde/place"},
		{protobuf.Of[timestamppb.Timestamp](), serde.StoreKey, "serde/place"},
		{protobuf.Of[timestamppb.Timestamp](), serde.TopicValue, ""},
		{protobuf.Of[timestamppb.Timestamp](), serde.StoreValue, ""},
		{protobuf.Of[timestamppb.Timestamp](protobuf.AsKey()), serde.TopicKey, ""},
		{protobuf.Of[timestamppb.Timestamp](protobuf.AsKey()), serde.StoreKey, ""},
	} {
		if err := serde.Usable(c.s, c.at); fault.Code(err) != c.code {
			t.Errorf("%s: %v, want %q", c.at, err, c.code)
		}
	}
}

type fake struct {
	*srfake.Registry
	asked atomic.Int64
}

func newFake(t testing.TB) (*fake, *registry.Registry) {
	t.Helper()
	f := &fake{Registry: srfake.New()}
	t.Cleanup(f.Close)
	f.Intercept(func(http.ResponseWriter, *http.Request) bool { f.asked.Add(1); return false })
	cl, err := sr.NewClient(sr.URLs(f.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return f, registry.New(context.Background(), cl, registry.Timeout(time.Minute))
}

const timestampProto = `syntax = "proto3"; package google.protobuf; message Timestamp { int64 seconds = 1; int32 nanos = 2; }`

func TestInRegistry(t *testing.T) {
	f, r := newFake(t)
	s, err := protobuf.InRegistry[timestamppb.Timestamp](r, "times-value", timestampProto)
	if err != nil {
		t.Fatal(err)
	}
	raw := roundTrip(t, s, &timestamppb.Timestamp{Seconds: 5})
	schema, ok := f.GetSchema("times-value", 1)
	if !ok || schema.Type != sr.TypeProtobuf {
		t.Fatalf("registered: %v %v", ok, schema)
	}
	if want := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(schema.ID)), 0, 8, 5); !bytes.Equal(raw, want) {
		t.Errorf("% x, want % x", raw, want)
	}
	before := f.asked.Load()
	roundTrip(t, s, &timestamppb.Timestamp{Seconds: 6})
	if n := f.asked.Load() - before; n != 0 {
		t.Errorf("%d requests", n)
	}
	// Another version of the schema, from a writer elsewhere, is looked at once.
	f.SeedSchema("elsewhere", 1, 40, sr.Schema{Type: sr.TypeProtobuf, Schema: strings.Replace(timestampProto, "}", "bool far = 3; }", 1)})
	raw[4] = 40
	for range 3 {
		if v, err := s.Decode(raw); err != nil || v.Seconds != 5 {
			t.Errorf("%v, %v", v, err)
		}
	}
	if n := f.asked.Load() - before; n != 1 {
		t.Errorf("%d requests", n)
	}
	for _, at := range []serde.Place{serde.StoreKey, serde.TopicKey} {
		if err := serde.Usable(s, at); fault.Code(err) != "serde/place" {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// The place of a message is written as sr, which others use, writes it.
func TestMessageIndex(t *testing.T) {
	f, r := newFake(t)
	_ = f
	check := func(raw []byte, want ...int) {
		t.Helper()
		head, err := new(sr.ConfluentHeader).AppendEncode(nil, int(binary.BigEndian.Uint32(raw[1:])), want)
		if err != nil || !bytes.HasPrefix(raw, head) {
			t.Errorf("% x does not begin with % x, %v", raw, head, err)
		}
	}
	text := func(name string) string { return `syntax = "proto3"; message ` + name + ` {}` }
	// FileDescriptorSet is the first message of descriptor.proto, DescriptorProto the third, ExtensionRange the first in it.
	a := protobuf.Must(protobuf.InRegistry[descriptorpb.FileDescriptorSet](r, "a", text("FileDescriptorSet")))
	check(roundTrip(t, a, &descriptorpb.FileDescriptorSet{}), 0)
	b := protobuf.Must(protobuf.InRegistry[descriptorpb.DescriptorProto](r, "b", text("DescriptorProto")))
	check(roundTrip(t, b, &descriptorpb.DescriptorProto{Name: proto.String("x")}), 2)
	c := protobuf.Must(protobuf.InRegistry[descriptorpb.DescriptorProto_ReservedRange](r, "c", text("ReservedRange")))
	raw := roundTrip(t, c, &descriptorpb.DescriptorProto_ReservedRange{Start: proto.Int32(3)})
	check(raw, 2, 1)
	// Value is the second message of struct.proto: that Struct has the entry of a map in it does not matter.
	check(roundTrip(t, protobuf.Must(protobuf.InRegistry[structpb.Value](r, "d", text("Value"))), structpb.NewBoolValue(true)), 1)
	for name, err := range map[string]error{
		"nested as first": func() error { _, err := a.Decode(raw); return err }(),
		"nested as outer": func() error { _, err := b.Decode(raw); return err }(),
	} {
		if fault.Code(err) != "schema/frame" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	f, r := newFake(t)
	s, err := protobuf.InRegistry[timestamppb.Timestamp](r, "t", timestampProto)
	if err != nil {
		t.Fatal(err)
	}
	plain := protobuf.Of[timestamppb.Timestamp]()
	f.SeedSchema("avro", 1, 50, sr.Schema{Schema: `"long"`})
	f.SeedSchema("other", 1, 51, sr.Schema{Type: sr.TypeProtobuf, Schema: `syntax = "proto3"; message TimestampRange {}`})
	decode := func(raw ...byte) error { _, err := s.Decode(raw); return err }
	for _, c := range []struct {
		name string
		err  error
		code string
	}{
		{"plain: no message", func() error { _, err := plain.Decode([]byte{0xFF}); return err }(), "serde/decode"},
		{"plain: nil", func() error { _, err := plain.Append(nil, nil); return err }(), "serde/null"},
		{"plain: no UTF-8", func() error {
			_, err := protobuf.Of[wrapperspb.StringValue]().Append(nil, wrapperspb.String("\xff"))
			return err
		}(), "serde/encode"},
		{"nil", func() error { _, err := s.Append(nil, nil); return err }(), "serde/null"},
		{"no bytes", decode(), "schema/frame"},
		{"wrong magic", decode(1, 0, 0, 0, 1, 0), "schema/frame"},
		{"no place", decode(0, 0, 0, 0, 1), "schema/frame"},
		{"a place that is too long", decode(0, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80), "schema/frame"},
		{"a negative place", decode(0, 0, 0, 0, 1, 1), "schema/frame"},
		{"many places", decode(0, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f), "schema/frame"},
		{"another place", decode(0, 0, 0, 0, 1, 2, 4), "schema/frame"},
		{"no message", decode(0, 0, 0, 0, 1, 0, 0xFF), "serde/decode"},
		{"no such schema", decode(0, 0, 0, 9, 9, 0), "schema/unknown"},
		{"Avro's", decode(0, 0, 0, 0, 50, 0), "schema/message"},
		{"another message's", decode(0, 0, 0, 0, 51, 0), "schema/message"},
		{"another file", func() error {
			_, err := protobuf.InRegistry[timestamppb.Timestamp](r, "t", `message Duration {}`)
			return err
		}(), "schema/message"},
		{"no registry", func() error {
			_, err := protobuf.InRegistry[timestamppb.Timestamp](nil, "t", timestampProto)
			return err
		}(), "schema/no-client"},
	} {
		if fault.Code(c.err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, c.err, c.code)
		}
	}
}

func FuzzDecode(f *testing.F) {
	_, r := newFake(f)
	framed, err := protobuf.InRegistry[structpb.Struct](r, "s", `message Struct {}`)
	if err != nil {
		f.Fatal(err)
	}
	plain := protobuf.Of[structpb.Struct]()
	raw, err := plain.Append(nil, someStruct(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(append([]byte{0}, raw...))
	f.Add(bytes.Repeat([]byte{0x0a}, 1000))
	f.Fuzz(func(t *testing.T, src []byte) {
		if v, err := plain.Decode(src); err == nil {
			if _, err := plain.Append(nil, v); err != nil {
				t.Fatal(err)
			}
		} else if fault.Code(err) != "serde/decode" {
			t.Fatal(err)
		}
		if _, err := framed.Decode(append([]byte{0, 0, 0, 0, 1}, src...)); err != nil && fault.Code(err) != "serde/decode" && fault.Code(err) != "schema/frame" {
			t.Fatal(err)
		}
	})
}

func ExampleOf() {
	s := protobuf.Of[timestamppb.Timestamp]()
	raw, _ := s.Append(nil, &timestamppb.Timestamp{Seconds: 1700000000})
	v, _ := s.Decode(raw)
	fmt.Println(v.AsTime(), serde.ID(s))
	fmt.Println(serde.Usable(s, serde.StoreKey))
	// Output:
	// 2023-11-14 22:13:20 +0000 UTC protobuf:google.protobuf.Timestamp
	// serde/place: key of a store "protobuf:google.protobuf.Timestamp": Protobuf has no canonical form, and the same key must always have the same bytes; use a field of the message as the key, or accept the risk with protobuf.AsKey
}
