package txn

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
)

// CommitID identifies one epoch for ever. It is written into the metadata of the offsets the epoch commits, so that
// afterwards anybody can tell whether that epoch is the one that was committed last.
//
// Random is drawn once per Sequence and Seq counts its epochs, so of two ids of one Sequence it is known which is older.
// An offsets-only commit has no transaction: its ProducerID and ProducerEpoch are -1. An epoch under AtLeastOnce has none
// either: its ProducerID is -2, and TxnID is a name only.
type CommitID struct {
	TxnID         string
	ProducerID    int64
	ProducerEpoch int16
	Random        uint64
	Seq           uint64
}

// Zero reports whether the id is no id: nothing of ours was committed.
func (id CommitID) Zero() bool { return id == CommitID{} }

// Before reports whether id is known to be older than other: both are of the same Sequence.
func (id CommitID) Before(other CommitID) bool {
	return id.Random == other.Random && id.Seq < other.Seq
}

// producerAtLeastOnce stands in commit ids for the producer of a transaction, where there are no transactions.
const producerAtLeastOnce = -2

// AtLeastOnce reports whether the epoch was written, or was to be, without a transaction. What it wrote is there even if its
// offsets never were committed.
func (id CommitID) AtLeastOnce() bool { return id.ProducerID == producerAtLeastOnce }

// Sequence numbers epochs. Producers that take turns share one, so that their commit ids are known to follow each other.
// It may be used by several goroutines.
type Sequence struct {
	random uint64
	last   atomic.Uint64
}

// NewSequence begins at 1, under a random number that nobody else has.
func NewSequence() *Sequence { return &Sequence{random: rand.Uint64()} }

// next numbers the transactional id's next epoch.
func (s *Sequence) next(txnID string, producerID int64, producerEpoch int16) CommitID {
	return CommitID{TxnID: txnID, ProducerID: producerID, ProducerEpoch: producerEpoch, Random: s.random, Seq: s.last.Add(1)}
}

// Guarantee is what an application promises.
type Guarantee uint8

// The guarantees.
const (
	// ExactlyOnce: outputs, state and offsets of an epoch are one transaction.
	ExactlyOnce Guarantee = 1
	// AtLeastOnce: outputs and state are written first, then the offsets are committed. What is between the two when a
	// process dies comes again.
	AtLeastOnce Guarantee = 2
)

func (g Guarantee) String() string {
	switch g {
	case ExactlyOnce:
		return "exactly-once"
	case AtLeastOnce:
		return "at-least-once"
	}
	return "guarantee " + strconv.Itoa(int(g))
}

// Meta is the metadata string millrace commits with every offset: fixed fields, at most 512 bytes
// (docs/format/commit-metadata.md).
type Meta struct {
	Commit     CommitID
	StreamTime int64
	Now        int64
	Guarantee  Guarantee
}

const (
	metaMagic    = "millrace"
	metaVersion  = "1"
	metaPrefix   = metaMagic + metaVersion + " "
	metaBytesMax = 512
	metaFields   = 8 // after prefix and checksum
)

// ErrMeta is in the tree of every error of ParseMeta.
var ErrMeta = errors.New("txn: commit metadata cannot be read")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the metadata string. With a transactional id of at most 300 bytes it has at most 512.
func (m Meta) Encode() string {
	b := make([]byte, 0, 128+len(m.Commit.TxnID))
	b = append(b, metaPrefix...)
	b = append(b, "00000000 "...)
	body := len(b)
	b = strconv.AppendUint(b, uint64(m.Guarantee), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, m.StreamTime, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, m.Now, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, m.Commit.ProducerID, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(m.Commit.ProducerEpoch), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, m.Commit.Random, 16)
	b = append(b, ' ')
	b = strconv.AppendUint(b, m.Commit.Seq, 10)
	b = append(b, ' ')
	b = append(b, m.Commit.TxnID...)
	putHex32(b[len(metaPrefix):], crc32.Checksum(b[body:], castagnoli))
	return string(b)
}

// ParseMeta decodes a metadata string. ours is false when it is not one of millrace's (empty, or another tool's); err is
// set when it is ours and damaged or of a newer version.
func ParseMeta(s string) (m Meta, ours bool, err error) {
	rest, found := strings.CutPrefix(s, metaMagic)
	if !found {
		return Meta{}, false, nil
	}
	version, rest, found := strings.Cut(rest, " ")
	if n, perr := strconv.ParseUint(version, 10, 16); !found || perr != nil || n == 0 {
		return Meta{}, false, nil // somebody's text that happens to begin like ours
	}
	if version != metaVersion {
		return Meta{}, true, fmt.Errorf("%w: it has format version %s, this program reads %s", ErrMeta, version, metaVersion)
	}
	sum, body, found := strings.Cut(rest, " ")
	var want [8]byte
	putHex32(want[:], crc32.Checksum([]byte(body), castagnoli))
	if !found || sum != string(want[:]) {
		return Meta{}, true, fmt.Errorf("%w: its checksum is %q, its fields say %s", ErrMeta, sum, want)
	}
	f := strings.SplitN(body, " ", metaFields)
	if len(f) != metaFields {
		return Meta{}, true, fmt.Errorf("%w: it has %d fields, not %d", ErrMeta, len(f), metaFields)
	}
	var errs [7]error
	var guarantee, epoch = uint64(0), int64(0)
	guarantee, errs[0] = strconv.ParseUint(f[0], 10, 8)
	m.StreamTime, errs[1] = strconv.ParseInt(f[1], 10, 64)
	m.Now, errs[2] = strconv.ParseInt(f[2], 10, 64)
	m.Commit.ProducerID, errs[3] = strconv.ParseInt(f[3], 10, 64)
	epoch, errs[4] = strconv.ParseInt(f[4], 10, 16)
	m.Commit.Random, errs[5] = strconv.ParseUint(f[5], 16, 64)
	m.Commit.Seq, errs[6] = strconv.ParseUint(f[6], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return Meta{}, true, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	m.Guarantee, m.Commit.ProducerEpoch, m.Commit.TxnID = Guarantee(guarantee), int16(epoch), f[7]
	return m, true, nil
}

func putHex32(dst []byte, v uint32) {
	const digits = "0123456789abcdef"
	for i := 7; i >= 0; i-- {
		dst[i] = digits[v&15]
		v >>= 4
	}
}
