package changelog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"strconv"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// Checkpoints, task records and registry records share one frame: a kind byte, a version byte, fields, and a CRC-32C of all before it.
const (
	kindCheckpoint = 'c'
	kindTaskRecord = 't'
	kindRegistry   = 'r'
	codecVersion   = 1 // of registry records
	stateVersion   = 2 // of checkpoints and task records: with the kernel's own state; 1 is read as having none

	crcBytes      = 4
	frameOverhead = 2 + crcBytes

	nameBytesMax  = 249  // Kafka's limit of a topic name; store names become part of one
	txnIDBytesMax = 1024 // far above "millrace:<app>:<instance>:<worker>:<0|1>"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the checksum of dst[from:].
func seal(dst []byte, from int) []byte {
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[from:], castagnoli))
}

// newest is the newest version of a kind that this program reads, and the one it writes.
func newest(kind byte) byte {
	if kind == kindRegistry {
		return codecVersion
	}
	return stateVersion
}

// open checks frame and checksum and returns a reader over the fields.
func open(b []byte, kind byte, thing string) (reader, error) {
	if len(b) < frameOverhead {
		return reader{}, damaged(thing, strconv.Itoa(len(b))+" bytes", "it is too short to be one")
	}
	if b[0] != kind {
		return reader{}, damaged(thing, strconv.QuoteRune(rune(b[0])), "its first byte says it is something else")
	}
	body, sum := b[:len(b)-crcBytes], binary.BigEndian.Uint32(b[len(b)-crcBytes:])
	if crc32.Checksum(body, castagnoli) != sum {
		return reader{}, damaged(thing, strconv.Itoa(len(b))+" bytes", "its checksum does not match its bytes")
	}
	// The version is looked at after the checksum: a flipped bit must not read as "written by the future".
	if b[1] == 0 || b[1] > newest(kind) {
		return reader{}, &fault.Error{
			Code: "changelog/newer-format", Kind: fault.State, Thing: thing, Value: "version " + strconv.Itoa(int(b[1])),
			Reason: "this program reads up to version " + strconv.Itoa(int(newest(kind))),
			Remedy: "run the version of millrace that wrote it, or a newer one",
		}
	}
	return reader{rest: body[2:], thing: thing, version: b[1]}, nil
}

func damaged(thing, value, reason string) error {
	return &fault.Error{
		Code: "changelog/damaged", Kind: fault.State, Thing: thing, Value: value, Reason: reason,
		Remedy: "the local copy can be dropped and is then rebuilt from the changelog",
	}
}

// reader takes fields off a frame. After the first mistake it returns zeros; done reports it. No count or length is
// believed beyond the bytes that are there, so that damaged input cannot ask for memory.
type reader struct {
	rest    []byte
	thing   string
	bad     string
	version byte
}

func (r *reader) fail(what string) {
	if r.bad == "" {
		r.bad = what
	}
	r.rest = nil
}

func (r *reader) uvarint(what string) uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail(what)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint(what string) int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail(what)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// int32 is a signed varint that must fit.
func (r *reader) int32(what string) int32 {
	v := r.varint(what)
	if v < math.MinInt32 || v > math.MaxInt32 {
		r.fail(what)
		return 0
	}
	return int32(v)
}

func (r *reader) string(what string, limit int) string {
	n := r.uvarint(what)
	if n > uint64(limit) || n > uint64(len(r.rest)) {
		r.fail(what)
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// state is the kernel's own state, behind all other fields of a checkpoint or task record.
func (r *reader) state() []byte {
	if r.version < 2 {
		return nil
	}
	n := r.uvarint("kernel state")
	if n > uint64(len(r.rest)) {
		r.fail("kernel state")
		return nil
	}
	s := append([]byte(nil), r.rest[:n]...)
	r.rest = r.rest[n:]
	return s
}

func appendState(dst, s []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func (r *reader) fixed64(what string) uint64 {
	if len(r.rest) < 8 {
		r.fail(what)
		return 0
	}
	v := binary.BigEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return v
}

// count is the number of entries that follow, each of at least entryBytes.
func (r *reader) count(what string, entryBytes int) int {
	n := r.uvarint(what)
	if n > uint64(len(r.rest)/entryBytes) {
		r.fail(what)
		return 0
	}
	return int(n)
}

func (r *reader) done() error {
	if r.bad != "" {
		return damaged(r.thing, r.bad, "this field does not decode")
	}
	if len(r.rest) > 0 {
		return damaged(r.thing, strconv.Itoa(len(r.rest))+" bytes", "there are bytes behind its last field")
	}
	return nil
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendCommit(dst []byte, id txn.CommitID) []byte {
	dst = appendString(dst, id.TxnID)
	dst = binary.AppendVarint(dst, id.ProducerID)
	dst = binary.AppendVarint(dst, int64(id.ProducerEpoch))
	dst = binary.BigEndian.AppendUint64(dst, id.Random)
	return binary.AppendUvarint(dst, id.Seq)
}

func (r *reader) commit() txn.CommitID {
	id := txn.CommitID{TxnID: r.string("transactional id", txnIDBytesMax), ProducerID: r.varint("producer id")}
	epoch := r.varint("producer epoch")
	if epoch < math.MinInt16 || epoch > math.MaxInt16 {
		r.fail("producer epoch")
	}
	id.ProducerEpoch = int16(epoch)
	id.Random = r.fixed64("commit random")
	id.Seq = r.uvarint("commit sequence")
	return id
}

// Inputs are sorted runs of the same topic more often than not, but few: the plain form is short enough.
func appendInputs(dst []byte, inputs []InputOffset) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(inputs)))
	for i := range inputs {
		in := &inputs[i]
		dst = appendString(dst, in.Topic)
		dst = binary.AppendVarint(dst, int64(in.Partition))
		dst = binary.AppendVarint(dst, in.Offset)
		dst = binary.AppendVarint(dst, int64(in.LeaderEpoch))
	}
	return dst
}

func (r *reader) inputs() []InputOffset {
	n := r.count("inputs", 4)
	if n == 0 {
		return nil
	}
	inputs := make([]InputOffset, n)
	for i := range inputs {
		inputs[i] = InputOffset{
			Topic:       r.string("input topic", nameBytesMax),
			Partition:   r.int32("input partition"),
			Offset:      r.varint("input offset"),
			LeaderEpoch: r.int32("input leader epoch"),
		}
	}
	return inputs
}
