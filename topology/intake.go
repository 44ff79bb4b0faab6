package topology

import (
	"errors"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// intake is a wired source: the two things a task asks of it.
type intake struct {
	process   func(r *Raw, at int64) error
	timestamp func(r *Raw) (int64, error)
	ahead     func(r *Raw, w *store.Wanted) // nil when no node reads rows by the key
	promised  int64                         // by the last record; set where the topic has WatermarkBy
}

var errBefore1970 = errors.New("event time is before 1970")

// wireSource makes the wiring of a source. The record it hands on lives in the source and is filled anew for each one:
// nothing is allocated but what the codecs allocate.
func wireSource[K, V any](t Topic[K, V]) func(*wiring, int, []any) (any, error) {
	return func(w *wiring, local int, children []any) (any, error) {
		next, err := fanOut[K, V](children)
		if err != nil {
			return nil, err
		}
		host, fail := w.host, w.fail
		key, value := newDecoder(t.key), newDecoder(t.value)
		unread := t.extract == nil && t.mark == nil && w.unread(local)
		var rec processor.Record[K, V]
		decode := func(r *Raw) error {
			host.SetNode(local)
			var err error
			if rec.Key, rec.NullKey, err = key.decode(r.Key); err != nil {
				return fail(local, "decode key", err)
			}
			if unread && r.Value != nil {
				// It is decoded all the same: whether it can be is the policy's business.
				rec.NullValue = false
				rec.Value, err = value.Peek(r.Value)
			} else {
				rec.Value, rec.NullValue, err = value.decode(r.Value)
			}
			if err != nil {
				return fail(local, "decode value", err)
			}
			return nil
		}
		in := &intake{}
		in.process = func(r *Raw, at int64) error {
			if at < 0 {
				return fail(local, "timestamp", errBefore1970)
			}
			if err := decode(r); err != nil {
				return err
			}
			rec.Time = time.UnixMilli(at).UTC()
			rec.Headers = r.Headers
			if t.mark != nil {
				in.promised = promise(t.mark(rec.Key, rec.Value, rec.Time))
			}
			return next(&rec)
		}
		in.timestamp = func(r *Raw) (int64, error) {
			at := r.Time
			if t.extract != nil {
				if err := decode(r); err != nil {
					return 0, err
				}
				at = t.extract(rec.Key, rec.Value, time.UnixMilli(r.Time).UTC()).UnixMilli()
			}
			if at < 0 {
				return 0, fail(local, "timestamp", errBefore1970)
			}
			return at, nil
		}
		if f := aheadOf[K](w, local, true); f != nil {
			in.ahead = func(r *Raw, w *store.Wanted) {
				if r.Key == nil {
					return
				}
				if k, err := key.Peek(r.Key); err == nil {
					f(w, k, r.Value == nil)
				}
			}
		}
		return in, nil
	}
}

// unread reports whether no child of a source looks at values.
func (w *wiring) unread(local int) bool {
	for _, c := range w.sub.Nodes[local].Children {
		if !w.sub.nodes[c].noValue {
			return false
		}
	}
	return true
}

// decoder turns bytes into values and nulls into the value that stands for null.
type decoder[T any] struct {
	*serde.Decoder[T]
	// nullByDecode: the codec has a null value that is not T's zero value; Decode(nil) makes it.
	nullByDecode bool
}

func newDecoder[T any](s serde.Serde[T]) *decoder[T] {
	d := &decoder[T]{Decoder: serde.NewDecoder(s)}
	if n, ok := any(s).(serde.Nullable[T]); ok {
		var zero T
		if !n.IsNull(zero) {
			v, err := s.Decode(nil)
			d.nullByDecode = err == nil && n.IsNull(v)
		}
	}
	return d
}

func (d *decoder[T]) decode(b []byte) (v T, null bool, err error) {
	if b != nil {
		v, err = d.DecodeFetched(b)
		return v, false, err
	}
	if d.nullByDecode {
		v, err = d.Decode(nil)
	}
	return v, true, err
}

// encodeKeepMax is how large an encoding buffer may stay between records.
const encodeKeepMax = 1 << 20

// encoder turns values into bytes in a buffer of its own.
type encoder[T any] struct {
	serde serde.Serde[T]
	null  serde.Nullable[T] // nil if no value of T stands for null
	buf   []byte
}

func newEncoder[T any](s serde.Serde[T]) *encoder[T] {
	e := &encoder[T]{serde: s, buf: make([]byte, 0, 64)}
	e.null, _ = any(s).(serde.Nullable[T])
	return e
}

// encode returns nil for a null; the bytes are valid until the next call.
func (e *encoder[T]) encode(v T, null bool) ([]byte, error) {
	if null || e.null != nil && e.null.IsNull(v) {
		return nil, nil
	}
	b, err := e.serde.Append(e.buf[:0], v)
	if err != nil {
		return nil, err
	}
	if b == nil {
		b = []byte{} // an empty value is not a null
	}
	if cap(b) <= encodeKeepMax {
		e.buf = b
	}
	return b, nil
}

// wireSink makes the wiring of a sink.
func wireSink[K, V any](t Topic[K, V]) func(*wiring, int, []any) (any, error) {
	return func(w *wiring, local int, _ []any) (any, error) {
		host, fail, sink := w.host, w.fail, w.sub.sink[local]
		key, value := newEncoder(t.key), newEncoder(t.value)
		return func(r *processor.Record[K, V]) error {
			host.SetNode(local)
			k, err := key.encode(r.Key, r.NullKey)
			if err != nil {
				return fail(local, "encode key", err)
			}
			v, err := value.encode(r.Value, r.NullValue)
			if err != nil {
				return fail(local, "encode value", err)
			}
			if err := host.Emit(sink, k, v, r.Time.UnixMilli(), r.Headers); err != nil {
				return fail(local, "emit", err)
			}
			return nil
		}, nil
	}
}
