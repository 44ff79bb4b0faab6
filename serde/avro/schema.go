package avro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/twmb/avro"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde/registry"
)

// parse makes a schema of its text and of those it refers to, each of which comes before whoever refers to it.
func parse(text string, references []registry.Reference) (*avro.Schema, error) {
	var cache avro.SchemaCache
	for _, r := range references {
		if _, err := cache.Parse(r.Text); err != nil {
			return nil, invalid(r.Name, err)
		}
	}
	s, err := cache.Parse(text)
	if err != nil {
		return nil, invalid("", err)
	}
	return s, nil
}

func invalid(name string, err error) error {
	return &fault.Error{Code: "schema/invalid", Kind: fault.Config, Thing: "Avro schema", Value: name, Reason: "it cannot be understood", Err: err,
		Remedy: "correct the schema"}
}

// resolve makes what reads values of the writer's schema as the reader's.
func resolve(writer, reader *avro.Schema, name, thing string) (*avro.Schema, error) {
	s, err := avro.Resolve(writer, reader)
	if err == nil {
		return s, nil
	}
	e := &fault.Error{Code: "schema/incompatible", Kind: fault.Record, Thing: thing + ", read as", Value: name, Err: err,
		Remedy: "give new fields a default and renamed ones an alias"}
	var c *avro.CompatibilityError
	if errors.As(err, &c) {
		e.Reason, e.Err = fmt.Sprintf("at %s there is %s and must be %s: %s", c.Path, c.WriterType, c.ReaderType, c.Detail), nil
	}
	return nil, e
}

// description is what of a schema decides how its values are handled.
type description struct {
	name      string
	hash      uint64 // of everything that decides what its bytes mean, and of nothing else
	maps      bool   // somewhere in it
	bytes     bool   // or fixed
	unbounded bool   // a few bytes may stand for a great value: it has arrays or maps, or refers to itself
}

func describe(s *avro.Schema) description {
	root := s.Root()
	d := &describer{hash: fnv.New64a(), seen: map[string]bool{}}
	d.node(root, "")
	d.out.name = nameOf(root)
	d.out.hash = d.hash.Sum64()
	return d.out
}

func nameOf(n *avro.SchemaNode) string {
	switch {
	case n.Name == "":
		return n.Type
	case n.Namespace != "":
		return n.Namespace + "." + n.Name
	}
	return n.Name
}

// referred is the full name of what a name stands for inside of a namespace.
func referred(name, within string, known func(string) bool) string {
	if full := within + "." + name; within != "" && !strings.Contains(name, ".") && known(full) {
		return full
	}
	return name
}

type describer struct {
	hash hash.Hash64
	seen map[string]bool
	out  description
}

// say adds one word: no two lists of words are the same bytes.
func (d *describer) say(words ...string) {
	for _, w := range words {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(w)))
		_, _ = d.hash.Write(n[:])
		_, _ = d.hash.Write([]byte(w))
	}
}

func (d *describer) node(n *avro.SchemaNode, within string) {
	switch n.Type {
	case "record", "error", "enum", "fixed", "array", "map", "union", "null", "boolean", "int", "long", "float", "double", "string", "bytes":
	default: // a name: what it stands for was there before, or is around it
		d.out.unbounded = true
		d.say("named", referred(n.Type, within, func(name string) bool { return d.seen[name] }))
		return
	}
	d.say(n.Type, n.LogicalType)
	if n.LogicalType == "decimal" {
		d.say(strconv.Itoa(n.Precision), strconv.Itoa(n.Scale))
	}
	switch n.Type {
	case "record", "error":
		d.say(nameOf(n), strconv.Itoa(len(n.Fields)))
		d.seen[nameOf(n)] = true
		for i := range n.Fields {
			d.say(n.Fields[i].Name)
			d.node(&n.Fields[i].Type, n.Namespace)
		}
	case "enum":
		d.seen[nameOf(n)] = true
		d.say(nameOf(n), strconv.Itoa(len(n.Symbols)))
		d.say(n.Symbols...)
	case "fixed":
		d.seen[nameOf(n)] = true
		d.say(nameOf(n), strconv.Itoa(n.Size))
		d.out.bytes = true
	case "array":
		d.out.unbounded = true
		d.node(n.Items, within)
	case "map":
		d.out.unbounded, d.out.maps = true, true
		d.node(n.Values, within)
	case "union":
		d.say(strconv.Itoa(len(n.Branches)))
		for i := range n.Branches {
			d.node(&n.Branches[i], within)
		}
	case "bytes":
		d.out.bytes = true
	}
}
