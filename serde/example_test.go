package serde_test

import (
	"bytes"
	"fmt"

	"github.com/millrace-io/millrace/serde"
)

func ExampleString() {
	raw, _ := serde.String().Append([]byte("key="), "grün")
	fmt.Printf("%s\n", raw)
	// Output: key=grün
}

func ExampleInt64() {
	s := serde.Int64()
	minus, _ := s.Append(nil, -1)
	zero, _ := s.Append(nil, 0)
	fmt.Println("in a topic -1 sorts before 0:", bytes.Compare(minus, zero) < 0)

	o := s.(serde.Ordered[int64])
	minus, _ = o.AppendOrdered(nil, -1)
	zero, _ = o.AppendOrdered(nil, 0)
	fmt.Println("in a store -1 sorts before 0:", bytes.Compare(minus, zero) < 0)
	// Output:
	// in a topic -1 sorts before 0: false
	// in a store -1 sorts before 0: true
}

func ExampleJSON() {
	type Payment struct {
		Card  string
		Cents int64
	}
	s := serde.JSON[Payment]()
	raw, _ := s.Append(nil, Payment{"4711", 1250})
	fmt.Printf("%s\n", raw)

	_, err := s.Decode([]byte(`{"Cents": "much"}`))
	fmt.Println(err)
	// Output:
	// {"Card":"4711","Cents":1250}
	// serde/decode: json:Payment "17 bytes": field Cents at byte 16 does not fit the Go type int64
}

func ExampleOptional() {
	s := serde.Optional(serde.String())
	name := "Ada"
	raw, _ := s.Append(nil, &name)
	fmt.Printf("%s, nil is null: %v\n", raw, s.(serde.Nullable[*string]).IsNull(nil))
	// Output: Ada, nil is null: true
}

func ExampleEvolve() {
	type PaymentV1 struct{ Card string }
	type PaymentV2 struct {
		Card     string
		Currency string
	}
	s := serde.Evolve(2, serde.JSON[PaymentV2](),
		serde.From(1, serde.JSON[PaymentV1](), func(p PaymentV1) (PaymentV2, error) {
			return PaymentV2{p.Card, "EUR"}, nil
		}))

	// A store does this: it knows the version of each row.
	old, _ := s.(serde.Versioned[PaymentV2]).DecodeVersion([]byte(`{"Card":"4711"}`), 1)
	fmt.Println(old)
	raw, _ := s.Append(nil, old)
	fmt.Printf("%s\n", raw)
	fmt.Println(serde.Forms(s))
	// Output:
	// {4711 EUR}
	// {"Card":"4711","Currency":"EUR"}
	// [version 1 (json:PaymentV1) version 2 (json:PaymentV2)]
}
