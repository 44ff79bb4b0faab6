package avro_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/avro"
	"github.com/millrace-io/millrace/serde/registry"
)

// fake is a schema registry in this process.
type fake struct {
	*srfake.Registry
	asked atomic.Int64 // requests
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{Registry: srfake.New()}
	t.Cleanup(f.Close)
	f.Intercept(func(http.ResponseWriter, *http.Request) bool { f.asked.Add(1); return false })
	return f
}

func client(t testing.TB, url string, opts ...sr.ClientOpt) *sr.Client {
	t.Helper()
	cl, err := sr.NewClient(append(opts, sr.URLs(url))...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func (f *fake) registry(t testing.TB, opts ...registry.Option) *registry.Registry {
	t.Helper()
	return registry.New(context.Background(), client(t, f.URL()), opts...)
}

func (f *fake) seed(t testing.TB, subject, schema string) int {
	t.Helper()
	id, _, err := f.RegisterSchema(subject, sr.Schema{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func framed(id int, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), value...)
}

func TestRegistry(t *testing.T) {
	f := newFake(t)
	r := f.registry(t)
	s := typed[address](t, avro.InRegistry(r, "addresses-value"))
	raw := roundTrip(t, s, address{"Main", 7})
	schema, ok := f.GetSchema("addresses-value", 1)
	if !ok {
		t.Fatal("nothing was registered")
	}
	if want := framed(schema.ID, []byte("\x08Main\x0e")); !bytes.Equal(raw, want) {
		t.Errorf("% x, want % x", raw, want)
	}
	if id := serde.ID(s); id != "avro-registry:addresses-value" {
		t.Errorf("id %s", id)
	}
	// Another one is the same schema: nothing new is registered.
	g := generic(t, schema.Schema.Schema, avro.InRegistry(r, "addresses-value"))
	if got, err := g.Decode(raw); err != nil || !reflect.DeepEqual(got, m("street", "Main", "zip", int32(7))) {
		t.Errorf("%v, %v", got, err)
	}
	if _, again := f.GetSchema("addresses-value", 2); again {
		t.Error("registered twice")
	}
	before := f.asked.Load()
	for range 100 {
		if _, err := s.Append(nil, address{}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Decode(raw); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.asked.Load() - before; n != 0 {
		t.Errorf("%d requests while records were written and read", n)
	}
	for _, at := range []serde.Place{serde.TopicKey, serde.TopicValue, serde.StoreKey, serde.StoreValue} {
		if err := serde.Usable(s, at); (err != nil) != (at == serde.StoreKey) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// What was written with an older registered schema is read as today's.
func TestRegistryEvolution(t *testing.T) {
	for _, c := range evolutions {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			r := f.registry(t)
			raw, err := generic(t, record(c.writer), avro.InRegistry(r, "r")).Append(nil, c.value)
			if err != nil {
				t.Fatal(err)
			}
			s, err := avro.Generic(record(c.reader), avro.InRegistry(r, "r"))
			if c.want == nil {
				if fault.Code(err) != "schema/incompatible" || fault.ExitCode(err) != 2 || !strings.Contains(err.Error(), `version 1 (id 1) of subject "r"`) {
					t.Fatalf("%v, want schema/incompatible at start", err)
				}
				if _, ok := f.GetSchema("r", 2); ok {
					t.Error("a schema that was refused is registered")
				}
				// Excused, it is found by the record.
				s, err := avro.Generic(record(c.reader), avro.InRegistry(r, "r"), avro.SinceVersion(2))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Decode(raw); fault.Code(err) != "schema/incompatible" || fault.ExitCode(err) != 1 {
					t.Errorf("%v, want schema/incompatible of the record", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Decode(raw); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestRegistryTypedEvolution(t *testing.T) {
	f := newFake(t)
	const old = `{"type":"record","name":"paymentV2","fields":[{"name":"card","type":"string"},{"name":"cents","type":"int"},{"name":"gone","type":"double"}]}`
	raw, err := generic(t, old, avro.InRegistry(f.registry(t), "payments-value")).Append(nil, m("card", "4711", "cents", int32(5), "gone", 1.5))
	if err != nil {
		t.Fatal(err)
	}
	s := typed[paymentV2](t, avro.InRegistry(f.registry(t), "payments-value"))
	if got, err := s.Decode(raw); err != nil || got != (paymentV2{"4711", 5, "none", nil}) {
		t.Errorf("%+v, %v", got, err)
	}
	newer := typed[paymentV2](t, avro.InRegistry(f.registry(t, registry.LookUpOnly()), "payments-value"))
	roundTrip(t, newer, paymentV2{Number: "1"})
}

// A schema that is registered while the program runs is asked for once.
func TestRegistryLearns(t *testing.T) {
	f := newFake(t)
	s := typed[address](t, avro.InRegistry(f.registry(t), "a"))
	id := f.seed(t, "elsewhere", `{"type":"record","name":"address","fields":[{"name":"zip","type":"int"},{"name":"street","type":"string"}]}`)
	before := f.asked.Load()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := s.Decode(framed(id, []byte("\x0e\x08Main"))); err != nil || got != (address{"Main", 7}) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := f.asked.Load() - before; n < 1 || n > 20 {
		t.Errorf("%d requests", n)
	}
	before = f.asked.Load()
	if _, err := s.Decode(framed(id, []byte("\x0e\x08Main"))); err != nil || f.asked.Load() != before {
		t.Errorf("%v, %d requests for what is known", err, f.asked.Load()-before)
	}
}

func TestRegistryReferences(t *testing.T) {
	f := newFake(t)
	f.seed(t, "zip", `{"type":"fixed","name":"Zip","namespace":"com.acme","size":4}`)
	f.SeedSchema("home", 1, 50, sr.Schema{Schema: `{"type":"record","name":"Home","namespace":"com.acme","fields":[{"name":"zip","type":"Zip"}]}`,
		References: []sr.SchemaReference{{Name: "com.acme.Zip", Subject: "zip", Version: 1}}})
	f.SeedSchema("person", 1, 60, sr.Schema{Schema: `{"type":"record","name":"Person","fields":[{"name":"home","type":"com.acme.Home"},{"name":"second","type":"com.acme.Home"}]}`,
		References: []sr.SchemaReference{{Name: "com.acme.Home", Subject: "home", Version: 1}, {Name: "com.acme.Zip", Subject: "zip", Version: 1}}})
	s := generic(t, `{"type":"record","name":"Person","fields":[{"name":"home","type":{"type":"record","name":"Home","namespace":"com.acme","fields":[{"name":"zip","type":{"type":"fixed","name":"Zip","size":4}}]}}]}`,
		avro.InRegistry(f.registry(t), "mine"))
	got, err := s.Decode(framed(60, []byte("12345678")))
	if err != nil || !reflect.DeepEqual(got, m("home", m("zip", []byte("1234")))) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRegistryRefuses(t *testing.T) {
	f := newFake(t)
	s := typed[address](t, avro.InRegistry(f.registry(t), "a"))
	g := generic(t, record(`{"name":"a","type":"long"}`), avro.InRegistry(f.registry(t), "g"))
	proto := 70
	f.SeedSchema("p", 1, proto, sr.Schema{Schema: `syntax = "proto3"; message M {}`, Type: sr.TypeProtobuf})
	f.SeedSchema("broken", 1, 71, sr.Schema{Schema: `{"type":"record"}`})
	decode := func(raw []byte) error {
		_, err := s.Decode(raw)
		_, err2 := g.Decode(raw)
		if fault.Code(err) != fault.Code(err2) {
			t.Errorf("typed %v, generic %v", err, err2)
		}
		return err
	}
	only := func(opts ...avro.Option) error { _, err := avro.Typed[address](opts...); return err }
	for _, c := range []struct {
		name string
		err  error
		code string
		exit int
		says string
	}{
		{"no bytes", decode(nil), "schema/frame", 1, "0 bytes"},
		{"short", decode([]byte{0, 0, 0, 1}), "schema/frame", 1, "too few"},
		{"wrong magic", decode([]byte{1, 0, 0, 0, 1, 0}), "schema/frame", 1, "first byte is 1"},
		{"no such id", decode(framed(999, nil)), "schema/unknown", 1, `"999"`},
		{"the greatest id", decode(framed(1<<32-1, nil)), "schema/unknown", 1, `"4294967295"`},
		{"a schema of Protobuf", decode(framed(proto, nil)), "schema/type", 1, "id 70"},
		{"a broken schema", decode(framed(71, nil)), "schema/invalid", 1, "id 71"},
		{"damaged value", func() error { _, err := s.Decode(framed(1, []byte{0xFF})); return err }(), "serde/decode", 1, "avro-registry:a"},
		{"only looked up, not there", only(avro.InRegistry(f.registry(t, registry.LookUpOnly()), "b")), "schema/not-registered", 2, `"b"`},
		{"no subject", only(avro.InRegistry(f.registry(t), "")), "schema/subject", 2, ""},
		{"no client", only(avro.InRegistry(registry.New(context.Background(), nil), "a")), "schema/no-client", 2, ""},
		{"written as, in a registry", only(avro.InRegistry(f.registry(t), "a"), avro.WrittenAs(record(``))), "schema/options", 2, ""},
	} {
		if c.err == nil || fault.Code(c.err) != c.code || fault.ExitCode(c.err) != c.exit || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v (exit %d), want %s that says %s", c.name, c.err, fault.ExitCode(c.err), c.code, c.says)
		}
	}
	// An id that is not there is remembered for a moment: the next record does not ask again.
	s = typed[address](t, avro.InRegistry(f.registry(t, registry.Timeout(time.Hour)), "a"))
	_, _ = s.Decode(framed(1234, nil))
	before := f.asked.Load()
	if _, err := s.Decode(framed(1234, nil)); fault.Code(err) != "schema/unknown" || f.asked.Load() != before {
		t.Errorf("%v after %d requests", err, f.asked.Load()-before)
	}
}

// A registry that cannot be asked is an error of the cluster, in bounded time, with what to do; one that comes back is asked again.
func TestRegistryDown(t *testing.T) {
	answer := func(status int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
			return true
		}
	}
	hangs := func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	for _, c := range []struct {
		name   string
		answer srfake.Interceptor
		code   string
		says   string
	}{
		{"500", answer(500, "boom"), "schema/unreachable", "500"},
		{"503 and a page", answer(503, "<html>"+strings.Repeat("no ", 1000)), "schema/unreachable", "503"},
		{"429", answer(429, ""), "schema/unreachable", "429"},
		{"200 and a page", answer(200, "<html>welcome"), "schema/unreachable", "no schema registry"},
		{"401", answer(401, `{"error_code":401,"message":"Unauthorized"}`), "schema/denied", "Unauthorized"},
		{"403", answer(403, ""), "schema/denied", "403"},
		{"hangs", hangs, "schema/unreachable", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			s := typed[address](t, avro.InRegistry(f.registry(t, registry.Timeout(2*time.Second)), "a"))
			id := f.seed(t, "b", `{"type":"record","name":"address","fields":[{"name":"zip","type":"int"},{"name":"street","type":"string"}]}`)
			f.Intercept(c.answer)
			check := func(err error, kind int) {
				t.Helper()
				if fault.Code(err) != c.code || fault.ExitCode(err) != kind || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1000 {
					t.Errorf("%v (exit %d), want %s", err, fault.ExitCode(err), c.code)
				}
			}
			_, err := s.Decode(framed(id, []byte("\x0e\x08Main")))
			check(err, 4)
			_, err = avro.Typed[address](avro.InRegistry(f.registry(t, registry.Timeout(100*time.Millisecond)), "a"))
			check(err, 4)
			f.ClearInterceptors()
			// What is known needs no registry, and what failed is asked for again after a moment.
			deadline := time.Now().Add(time.Minute)
			for {
				got, err := s.Decode(framed(id, []byte("\x0e\x08Main")))
				if err == nil && got == (address{"Main", 7}) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%v, long after the registry came back", err)
				}
			}
		})
	}
	t.Run("conflict", func(t *testing.T) {
		f := newFake(t)
		f.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			return answer(409, `{"error_code":409,"message":"Schema being registered is incompatible with an earlier schema"}`)(w, r)
		})
		_, err := avro.Typed[address](avro.InRegistry(f.registry(t), "a"))
		if fault.Code(err) != "schema/conflict" || fault.ExitCode(err) != 2 || !strings.Contains(err.Error(), "earlier schema") {
			t.Error(err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		f := newFake(t)
		s := typed[address](t, avro.InRegistry(f.registry(t, registry.Timeout(2*time.Second)), "a"))
		f.Close()
		if _, err := s.Decode(framed(9, nil)); fault.Code(err) != "schema/unreachable" || fault.ExitCode(err) != 4 {
			t.Error(err)
		}
		roundTrip(t, s, address{"Main", 1}) // what is known goes on
	})
	t.Run("the program ends", func(t *testing.T) {
		f := newFake(t)
		ctx, cancel := context.WithCancel(context.Background())
		s := typed[address](t, avro.InRegistry(registry.New(ctx, client(t, f.URL()), registry.Timeout(time.Hour)), "a"))
		f.Intercept(hangs)
		cancel()
		if _, err := s.Decode(framed(9, nil)); fault.Code(err) != "schema/unreachable" {
			t.Error(err)
		}
	})
}

// A hiccup of the registry is nobody's error.
func TestRegistryHiccup(t *testing.T) {
	f := newFake(t)
	s := typed[address](t, avro.InRegistry(f.registry(t), "a"))
	id := f.seed(t, "b", `{"type":"record","name":"address","fields":[{"name":"zip","type":"int"},{"name":"street","type":"string"}]}`)
	var n atomic.Int64
	f.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if n.Add(1) > 2 {
			return false
		}
		w.WriteHeader([]int{502, 404}[n.Load()-1])
		return true
	})
	if got, err := s.Decode(framed(id, []byte("\x0e\x08Main"))); err != nil || got != (address{"Main", 7}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRegistryCacheIsBounded(t *testing.T) {
	f := newFake(t)
	r := f.registry(t, registry.CacheSize(3))
	for i := range 10 {
		id := f.seed(t, fmt.Sprint("s", i), fmt.Sprintf(`{"type":"record","name":"R%d","fields":[]}`, i))
		if got, err := r.Schema(id); err != nil || got.ID != id {
			t.Fatalf("%v, %v", got, err)
		}
		if n := r.Len(); n > 3 {
			t.Fatalf("%d schemas are kept, 3 are allowed", n)
		}
	}
}

func FuzzRegistryFrame(f *testing.F) {
	fake := newFake(f)
	s := typed[payment](f, avro.InRegistry(fake.registry(f), "a"))
	g := generic(f, everything, avro.InRegistry(fake.registry(f), "g"))
	raw, err := s.Append(nil, somePayment())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[5:], uint8(1))
	f.Add([]byte{}, uint8(2))
	f.Fuzz(func(t *testing.T, value []byte, id uint8) {
		src := framed(int(id%2)+1, value) // both schemas; others are asked for, which is slow
		for _, err := range []error{func() error { _, err := s.Decode(src); return err }(), func() error { _, err := g.Decode(src); return err }()} {
			if err != nil && fault.Code(err) != "serde/decode" && fault.Code(err) != "schema/incompatible" {
				t.Fatal(err)
			}
		}
		if len(value) < 5 || value[0] != 0 {
			if _, err := s.Decode(value); len(value) < 5 && fault.Code(err) != "schema/frame" {
				t.Fatal(err)
			}
		}
	})
}
