package avro_test

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/avro"
	"github.com/millrace-io/millrace/serde/registry"
)

func ExampleTyped() {
	type Payment struct {
		Card  string  `avro:"card"`
		Cents int64   `avro:"cents"`
		Note  *string `avro:"note"`
	}
	s := avro.Must(avro.Typed[Payment](avro.Namespace("com.acme")))
	raw, _ := s.Append(nil, Payment{Card: "4711", Cents: 1250})
	v, _ := s.Decode(raw)
	fmt.Printf("%d bytes, %s %d %v\n", len(raw), v.Card, v.Cents, v.Note)
	// Output: 8 bytes, 4711 1250 <nil>
}

func ExampleGeneric() {
	s := avro.Must(avro.Generic(`{"type":"record","name":"Payment","fields":[
		{"name":"card","type":"string"},{"name":"note","type":["null","string"]}]}`))
	raw, _ := s.Append(nil, map[string]any{"card": "4711", "note": map[string]any{"string": "late"}})
	v, _ := s.Decode(raw)
	fmt.Println(v)
	// Output: map[card:4711 note:map[string:late]]
}

// A schema that evolved: what was written with the older one is read as today's type.
func ExampleInRegistry() {
	fake := srfake.New() // stands for a schema registry
	defer fake.Close()
	client, err := sr.NewClient(sr.URLs(fake.URL()))
	if err != nil {
		fmt.Println(err)
		return
	}
	r := registry.New(context.Background(), client)

	type Old struct {
		Card string `avro:"card"`
	}
	old := avro.Must(avro.Typed[Old](avro.InRegistry(r, "payments-value"),
		avro.Schema(`{"type":"record","name":"Payment","fields":[{"name":"card","type":"string"}]}`)))
	raw, _ := old.Append(nil, Old{"4711"})

	type Payment struct {
		Number   string `avro:"number,alias=card"`
		Currency string `avro:"currency,default=EUR"`
	}
	s := avro.Must(avro.Typed[Payment](avro.InRegistry(r, "payments-value")))
	v, err := s.Decode(raw)
	fmt.Printf("%+v %v\n", v, err)
	// Output: {Number:4711 Currency:EUR} <nil>
}

// A store whose values have no registry: the schema they were written with is version 1.
func ExampleWrittenAs() {
	type Payment struct {
		Card     string `avro:"card"`
		Currency string `avro:"currency,default=EUR"`
	}
	const before = `{"type":"record","name":"Payment","fields":[{"name":"card","type":"string"}]}`
	s := serde.Evolve(2, avro.Must(avro.Typed[Payment]()),
		serde.From(1, avro.Must(avro.Typed[Payment](avro.WrittenAs(before))), func(p Payment) (Payment, error) { return p, nil }))
	v, err := s.(serde.Versioned[Payment]).DecodeVersion([]byte("\x084711"), 1)
	fmt.Println(v, err)
	// Output: {4711 EUR} <nil>
}
