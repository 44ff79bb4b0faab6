// Package protobuf has codecs of Protocol Buffers messages: Of writes the message alone, InRegistry Confluent's wire format,
// where the id of the writer's schema and the message's place in it stand in front (docs/format/schema-frame.md). Messages
// evolve by Protobuf's own rules: fields go by number, unknown ones are kept and written again.
package protobuf

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/sr"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/serde/registry"
)

// Message is a generated message type: M is *T.
type Message[T any] interface {
	*T
	proto.Message
}

// Option is a setting of Of and InRegistry.
type Option func(*settings)

type settings struct {
	keys    bool
	imports []sr.SchemaReference
}

// AsKey accepts messages as keys. Protobuf promises no canonical form: the same program writes the same message the same way
// each time, but another version of the library or of the message, or another language, may not, and then looks for a key in
// another partition or row. It is for messages of plain fields that never get unknown ones.
func AsKey() Option { return func(s *settings) { s.keys = true } }

// Import says where the registry has a file that the schema imports, for InRegistry: the name in the import statement, the
// subject, and the version. The files of google/protobuf need none.
func Import(name, subject string, version int) Option {
	return func(s *settings) {
		s.imports = append(s.imports, sr.SchemaReference{Name: name, Subject: subject, Version: version})
	}
}

// Of is the codec of a message, as in protobuf.Of[pb.Payment](), whose values are *pb.Payment. A nil message stands for
// Kafka's null, an empty one has no bytes. As a key it is refused unless AsKey is given. Its ID is the message's full name.
func Of[T any, M Message[T]](opts ...Option) serde.Serde[M] {
	return newMessage[T, M]("protobuf:", opts)
}

func newMessage[T any, M Message[T]](prefix string, opts []Option) *message[T, M] {
	m := &message[T, M]{}
	for _, o := range opts {
		o(&m.settings)
	}
	m.descriptor = M(new(T)).ProtoReflect().Descriptor()
	m.id = prefix + string(m.descriptor.FullName())
	return m
}

type message[T any, M Message[T]] struct {
	settings
	id         string
	descriptor protoreflect.MessageDescriptor
}

func (m *message[T, M]) ID() string      { return m.id }
func (m *message[T, M]) IsNull(v M) bool { return v == nil }

func (m *message[T, M]) Append(dst []byte, v M) ([]byte, error) {
	if v == nil {
		return dst, &fault.Error{Code: "serde/null", Kind: fault.Record, Thing: m.id, Reason: "a nil message stands for null, which has no bytes",
			Remedy: "write a null instead, or a message"}
	}
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, v)
	if err != nil {
		return dst, &fault.Error{Code: "serde/encode", Kind: fault.Record, Thing: m.id, Reason: "the message has no form",
			Remedy: "set its required fields, and strings of valid UTF-8 only"}
	}
	return out, nil
}

func (m *message[T, M]) Decode(src []byte) (M, error) {
	v := M(new(T))
	if err := proto.Unmarshal(src, v); err != nil {
		return nil, &fault.Error{Code: "serde/decode", Kind: fault.Record, Thing: m.id, Value: strconv.Itoa(len(src)) + " bytes",
			Reason: "they are no such message", Remedy: "check that the writer uses this message, and whether it uses a schema registry"}
	}
	return v, nil
}

func (m *message[T, M]) Usable(at serde.Place) error {
	if at != serde.TopicKey && at != serde.StoreKey || m.keys {
		return nil
	}
	return &fault.Error{Code: "serde/place", Kind: fault.Config, Thing: at.String(), Value: m.id,
		Reason: "Protobuf has no canonical form, and the same key must always have the same bytes",
		Remedy: "use a field of the message as the key, or accept the risk with protobuf.AsKey"}
}

// InRegistry is Of in Confluent's wire format. schema is the text of the .proto file that declares the message; it is
// registered under subject (or, with registry.LookUpOnly, looked up) now, and nothing is asked while messages are written. By custom
// the subject is the topic's name and -key or -value. Of a message that comes, the schema is looked up once, to see that it
// declares this message in this place of the file.
func InRegistry[T any, M Message[T]](r *registry.Registry, subject, schema string, opts ...Option) (serde.Serde[M], error) {
	m := &framed[T, M]{message: newMessage[T, M]("protobuf-registry:", opts), registry: r}
	m.index = indexOf(m.descriptor)
	m.declares = regexp.MustCompile(`\bmessage\s+` + regexp.QuoteMeta(string(m.descriptor.Name())) + `\b`)
	if !m.declares.MatchString(schema) {
		return nil, &fault.Error{Code: "schema/message", Kind: fault.Config, Thing: "schema for subject", Value: subject,
			Reason: "it does not declare the message " + string(m.descriptor.FullName()), Remedy: "give the text of the .proto file that the Go type was made from"}
	}
	id, err := r.ID(subject, sr.Schema{Type: sr.TypeProtobuf, Schema: schema, References: m.imports})
	if err != nil {
		return nil, err
	}
	m.head = appendIndex(registry.AppendFrame(nil, id), m.index)
	m.known.put(id)
	return m, nil
}

// Must returns s, or panics: for codecs that are made where a program declares its topics and stores.
func Must[M any](s serde.Serde[M], err error) serde.Serde[M] {
	if err != nil {
		panic(err)
	}
	return s
}

type framed[T any, M Message[T]] struct {
	*message[T, M]
	registry *registry.Registry
	head     []byte // what stands in front of each message
	index    []int
	declares *regexp.Regexp
	known    ids
}

func (m *framed[T, M]) Append(dst []byte, v M) ([]byte, error) {
	out, err := m.message.Append(append(dst, m.head...), v)
	if err != nil {
		return dst, err
	}
	return out, nil
}

func (m *framed[T, M]) Decode(src []byte) (M, error) {
	id, rest, err := registry.ParseFrame(src, m.id)
	if err != nil {
		return nil, err
	}
	value, err := m.skipIndex(rest)
	if err != nil {
		return nil, err
	}
	if !m.known.has(id) {
		if err := m.look(id); err != nil {
			return nil, err
		}
	}
	return m.message.Decode(value)
}

func (m *framed[T, M]) Usable(at serde.Place) error {
	if at == serde.StoreKey {
		return &fault.Error{Code: "serde/place", Kind: fault.Config, Thing: at.String(), Value: m.id,
			Reason: "its bytes begin with the id of a schema, which may change", Remedy: "use a field of the message as the key"}
	}
	return m.message.Usable(at)
}

// look finds out whether a schema declares the message.
func (m *framed[T, M]) look(id int) error {
	source, err := m.registry.Schema(id)
	if err != nil {
		return err
	}
	reason := ""
	switch {
	case source.Type != sr.TypeProtobuf:
		reason = "it is a schema of type " + source.Type.String()
	case !m.declares.MatchString(source.Text):
		reason = "it does not declare a message of that name"
	default:
		m.known.put(id)
		return nil
	}
	return &fault.Error{Code: "schema/message", Kind: fault.Record, Thing: "schema id " + strconv.Itoa(id) + ", read as", Value: string(m.descriptor.FullName()),
		Reason: reason, Remedy: "correct the writer, or read with the codec of its message"}
}

// indexOf is the place of a message in its file: its number among the messages there, or that of the message around it,
// and so on inwards. Entries of maps, which nobody declared, do not count.
func indexOf(d protoreflect.MessageDescriptor) []int {
	var path []int
	for {
		var all protoreflect.MessageDescriptors
		parent := d.Parent()
		switch p := parent.(type) {
		case protoreflect.MessageDescriptor:
			all = p.Messages()
		case protoreflect.FileDescriptor:
			all = p.Messages()
		}
		n := 0
		for i := range d.Index() {
			if !all.Get(i).IsMapEntry() {
				n++
			}
		}
		path = append(path, n)
		outer, nested := parent.(protoreflect.MessageDescriptor)
		if !nested {
			slices.Reverse(path)
			return path
		}
		d = outer
	}
}

// appendIndex appends a place: a count and that many numbers, or a single 0 for the first message of a file.
func appendIndex(dst []byte, index []int) []byte {
	if len(index) == 1 && index[0] == 0 {
		return append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(len(index)))
	for _, i := range index {
		dst = binary.AppendVarint(dst, int64(i))
	}
	return dst
}

// skipIndex takes the place off the bytes behind the schema id and compares it.
func (m *framed[T, M]) skipIndex(src []byte) ([]byte, error) {
	bad := func(reason string) error {
		return &fault.Error{Code: "schema/frame", Kind: fault.Record, Thing: m.id, Reason: reason,
			Remedy: "read with the codec of the message that was written"}
	}
	count, n := binary.Varint(src)
	if n <= 0 || count < 0 {
		return nil, bad("the message's place in its file cannot be read")
	}
	src = src[n:]
	if count == 0 {
		if len(m.index) != 1 || m.index[0] != 0 {
			return nil, bad(fmt.Sprintf("it is the first message of its file, and this one is at %v", m.index))
		}
		return src, nil
	}
	if count != int64(len(m.index)) {
		return nil, bad(fmt.Sprintf("it is a message nested in %d others, and this one is at %v", count-1, m.index))
	}
	for _, want := range m.index {
		i, n := binary.Varint(src)
		if n <= 0 || i != int64(want) {
			return nil, bad(fmt.Sprintf("it is another message of its file: this one is at %v", m.index))
		}
		src = src[n:]
	}
	return src, nil
}

// ids are the schema ids that a codec has looked at. Reading them takes no lock.
type ids struct {
	mu  sync.Mutex
	set atomic.Pointer[map[int]bool]
}

// idsMax bounds them. Beyond it all are forgotten, and found again in the Registry.
const idsMax = 1000

func (s *ids) has(id int) bool {
	set := s.set.Load()
	return set != nil && (*set)[id]
}

func (s *ids) put(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := map[int]bool{id: true}
	if old := s.set.Load(); old != nil && len(*old) < idsMax {
		for k := range *old {
			set[k] = true
		}
	}
	s.set.Store(&set)
}
