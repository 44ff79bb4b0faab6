package avro

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/avro"
)

// goavro believes counts: three bytes of an array ask it for memory without end, and a schema that refers to itself for
// a stack without end. So values of such schemas are walked first, without making anything of them: every item that a
// count promises must be there.

const (
	depthMax = 1000
	// emptyMax is how many items that take no bytes (nulls, records without fields) one value may have.
	emptyMax = 1 << 16
)

var errShort = errors.New("they end before the value does")

// walker takes one value off src. It has the number of items without bytes that may still come.
type walker func(src []byte, depth int, empty *int) ([]byte, error)

// newWalker makes the walker of a schema.
func newWalker(s *avro.Schema) walker {
	root := s.Root()
	return (&walkers{named: map[string]*walker{}}).node(root, "")
}

type walkers struct {
	named map[string]*walker // records, for those that refer to themselves; enums and fixed for later references
}

func (w *walkers) node(n *avro.SchemaNode, within string) walker {
	switch n.Type {
	case "null":
		return func(src []byte, _ int, _ *int) ([]byte, error) { return src, nil }
	case "boolean":
		return skip(1)
	case "int", "long":
		return skipVarint
	case "float":
		return skip(4)
	case "double":
		return skip(8)
	case "bytes", "string":
		return skipBytes
	case "fixed":
		return w.name(n, skip(n.Size))
	case "enum":
		return w.name(n, skipVarint)
	case "array":
		return blocks(w.node(n.Items, within))
	case "map":
		value := w.node(n.Values, within)
		return blocks(func(src []byte, depth int, empty *int) ([]byte, error) {
			src, err := skipBytes(src, depth, empty)
			if err != nil {
				return nil, err
			}
			return value(src, depth, empty)
		})
	case "union":
		return w.union(n, within)
	case "record", "error":
		return w.record(n)
	}
	return w.reference(n, within)
}

func (w *walkers) name(n *avro.SchemaNode, f walker) walker {
	w.named[nameOf(n)] = &f
	return f
}

// reference finds what a name stands for when the value comes: it may be the record around it.
func (w *walkers) reference(n *avro.SchemaNode, within string) walker {
	f := w.named[referred(n.Type, within, func(name string) bool { return w.named[name] != nil })]
	if f == nil {
		return func([]byte, int, *int) ([]byte, error) {
			return nil, fmt.Errorf("the schema names %s and does not say what it is", n.Type)
		}
	}
	return func(src []byte, depth int, empty *int) ([]byte, error) { return (*f)(src, depth, empty) }
}

func (w *walkers) record(n *avro.SchemaNode) walker {
	fields := make([]walker, len(n.Fields))
	var f walker = func(src []byte, depth int, empty *int) (_ []byte, err error) {
		if depth++; depth > depthMax {
			return nil, fmt.Errorf("it is nested more than %d deep", depthMax)
		}
		for _, field := range fields {
			if src, err = field(src, depth, empty); err != nil {
				return nil, err
			}
		}
		return src, nil
	}
	w.named[nameOf(n)] = &f
	for i := range n.Fields {
		fields[i] = w.node(&n.Fields[i].Type, n.Namespace)
	}
	return f
}

func (w *walkers) union(n *avro.SchemaNode, within string) walker {
	branches := make([]walker, len(n.Branches))
	for i := range n.Branches {
		branches[i] = w.node(&n.Branches[i], within)
	}
	return func(src []byte, depth int, empty *int) ([]byte, error) {
		i, k := binary.Varint(src)
		if k <= 0 || i < 0 || i >= int64(len(branches)) {
			return nil, fmt.Errorf("a union of %d types has no type of that number", len(branches))
		}
		return branches[i](src[k:], depth, empty)
	}
}

func skip(n int) walker {
	return func(src []byte, _ int, _ *int) ([]byte, error) {
		if len(src) < n {
			return nil, errShort
		}
		return src[n:], nil
	}
}

func skipVarint(src []byte, _ int, _ *int) ([]byte, error) {
	_, n := binary.Varint(src)
	if n <= 0 {
		return nil, errShort
	}
	return src[n:], nil
}

func skipBytes(src []byte, _ int, _ *int) ([]byte, error) {
	size, n := binary.Varint(src)
	if n <= 0 || size < 0 || size > int64(len(src)-n) {
		return nil, errShort
	}
	return src[n+int(size):], nil
}

// blocks walks the items of an array or map: blocks of a count and as many items, until a count of 0. A negative count has
// the block's size behind it, which goavro passes over too.
func blocks(item walker) walker {
	return func(src []byte, depth int, empty *int) ([]byte, error) {
		if depth++; depth > depthMax {
			return nil, fmt.Errorf("it is nested more than %d deep", depthMax)
		}
		for {
			count, n := binary.Varint(src)
			if n <= 0 {
				return nil, errShort
			}
			src = src[n:]
			if count == 0 {
				return src, nil
			}
			if count < 0 {
				if count = -count; count < 0 {
					return nil, errors.New("a block has an impossible number of items")
				}
				if _, n = binary.Varint(src); n <= 0 {
					return nil, errShort
				}
				src = src[n:]
			}
			for range count {
				rest, err := item(src, depth, empty)
				if err != nil {
					return nil, err
				}
				if len(rest) == len(src) {
					if *empty--; *empty < 0 {
						return nil, fmt.Errorf("it has more than %d items without bytes", emptyMax)
					}
				}
				src = rest
			}
		}
	}
}
