package serde

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/millrace-io/millrace/internal/fault"
)

// JSON is the codec of T as one JSON text, written and read by encoding/json: fields in the order of the struct, map
// keys sorted, no HTML escaping, no trailing newline. Its ID is "json:" and the type's name, so renaming the type reads
// as another codec. Errors say where the text is wrong, never what it holds.
func JSON[T any]() Serde[T] {
	return &jsonSerde[T]{id: "json:" + typeName(reflect.TypeFor[T]())}
}

type jsonSerde[T any] struct {
	id       string
	encoders sync.Pool // of *jsonEncoder
}

// jsonEncoder is an encoder that writes to a slice: encoding/json has no append form.
type jsonEncoder struct {
	dst []byte
	enc *json.Encoder
}

func (e *jsonEncoder) Write(p []byte) (int, error) {
	e.dst = append(e.dst, p...)
	return len(p), nil
}

// typeName is the name of t without its package; a type without a name is written out.
func typeName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		return "*" + typeName(t.Elem())
	}
	if t.Name() != "" {
		return t.Name()
	}
	return t.String()
}

func (s *jsonSerde[T]) ID() string { return s.id }

func (s *jsonSerde[T]) Append(dst []byte, v T) ([]byte, error) {
	e, _ := s.encoders.Get().(*jsonEncoder)
	if e == nil {
		e = &jsonEncoder{}
		e.enc = json.NewEncoder(e)
		e.enc.SetEscapeHTML(false)
	}
	e.dst = dst
	err := e.enc.Encode(&v)
	out := e.dst
	e.dst = nil
	if err != nil {
		// The encoder remembers a failed write, never a failed value, but a fresh one costs nothing here.
		return dst, &fault.Error{
			Code: "serde/encode", Kind: fault.Record, Thing: s.id, Reason: "the value has no JSON form", Err: err,
		}
	}
	s.encoders.Put(e)
	return out[:len(out)-1], nil // without the newline that Encode ends a text with
}

func (s *jsonSerde[T]) Decode(src []byte) (T, error) {
	var v T
	if err := json.Unmarshal(src, &v); err != nil {
		var zero T
		return zero, s.refuse(src, err)
	}
	return v, nil
}

// refuse tells where src is wrong without quoting it: payloads do not belong in logs.
func (s *jsonSerde[T]) refuse(src []byte, err error) error {
	e := &fault.Error{
		Code: "serde/decode", Kind: fault.Record, Thing: s.id, Value: count(len(src)),
		Reason: "the type's own UnmarshalJSON refused it",
	}
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case len(src) == 0:
		e.Reason = "no bytes are no JSON text"
	case errors.As(err, &syntax):
		e.Reason = fmt.Sprintf("not JSON: the text breaks at byte %d", syntax.Offset)
	case errors.As(err, &mismatch) && mismatch.Field != "":
		e.Reason = fmt.Sprintf("field %s at byte %d does not fit the Go type %v", mismatch.Field, mismatch.Offset, mismatch.Type)
	case errors.As(err, &mismatch):
		e.Reason = fmt.Sprintf("the value at byte %d does not fit the Go type %v", mismatch.Offset, mismatch.Type)
	}
	return e
}
