package store

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// A row's value is a header and the user's bytes (docs/format/rows.md):
//
//	0       1       2               10                  (18)            (20)
//	+-------+-------+---------------+- - - - - - - - - - +- - - - - - - -+------
//	| format| flags | event time    | access time,       | value version,| value
//	| = 1   |       | 8, big-endian | 8, if flagged      | 2, if flagged |
//	+-------+-------+---------------+- - - - - - - - - - +- - - - - - - -+------
const (
	rowFormat        = 1
	rowFlagAccessed  = 1 << 0 // an access time follows the event time
	rowFlagPermanent = 1 << 1 // no time to live ends the row
	rowFlagVersion   = 1 << 2 // the version of the value follows the times
	rowFlagDead      = 1 << 7 // it was dead when it was restored; in local databases only
	rowFlags         = rowFlagAccessed | rowFlagPermanent | rowFlagVersion | rowFlagDead
	rowHeaderBytes   = 10
)

const (
	// KeyBytesMax is the greatest length of a row's key in its stored form.
	KeyBytesMax = 64 << 10
	// ValueBytesMax is the greatest length of a row's value. A changelog topic takes far less unless it is configured to.
	ValueBytesMax = 64 << 20
)

// RowHeader is what a row says beside its value.
type RowHeader struct {
	Time     int64  // event time of the record that wrote it, ms
	Accessed int64  // when it was last written or, where reads count, read, ms; with HasAccessed
	Version  uint16 // of the value: 0 and 1 are the first
	flags    uint8
}

// HasAccessed reports whether the row has an access time.
func (h RowHeader) HasAccessed() bool { return h.flags&rowFlagAccessed != 0 }

// Permanent reports whether no time to live ends the row.
func (h RowHeader) Permanent() bool { return h.flags&rowFlagPermanent != 0 }

// size is the length of the header.
func (h *RowHeader) size() int {
	n := rowHeaderBytes
	if h.flags != 0 {
		n += int(h.flags&rowFlagAccessed)*8 + int(h.flags&rowFlagVersion)/2
	}
	return n
}

// put writes the header; dst is at least as long.
func (h *RowHeader) put(dst []byte) {
	dst[0], dst[1] = rowFormat, h.flags
	binary.BigEndian.PutUint64(dst[2:], uint64(h.Time))
	if h.flags == 0 {
		return
	}
	n := rowHeaderBytes
	if h.flags&rowFlagAccessed != 0 {
		binary.BigEndian.PutUint64(dst[n:], uint64(h.Accessed))
		n += 8
	}
	if h.flags&rowFlagVersion != 0 {
		binary.BigEndian.PutUint16(dst[n:], h.Version)
	}
}

// ParseRow splits a row's value, as it is in the engine and in the changelog, into the user's bytes and the event time.
// The slice is part of row.
func ParseRow(row []byte) (value []byte, time int64, err error) {
	if len(row) >= rowHeaderBytes && row[0] == rowFormat && row[1] == 0 {
		return row[rowHeaderBytes:], int64(binary.BigEndian.Uint64(row[2:])), nil
	}
	value, h, err := ParseRowHeader(row)
	return value, h.Time, err
}

// ParseRowHeader is ParseRow with all that the header says.
func ParseRowHeader(row []byte) (value []byte, h RowHeader, err error) {
	if len(row) < rowHeaderBytes {
		return nil, h, badRow(fmt.Sprintf("%d bytes are too few for a header", len(row)))
	}
	if row[0] != rowFormat {
		return nil, h, badRow(fmt.Sprintf("format version %d is not known to this program", row[0]))
	}
	h = RowHeader{Time: int64(binary.BigEndian.Uint64(row[2:])), Version: 1, flags: row[1]}
	if h.flags == 0 {
		return row[rowHeaderBytes:], h, nil
	}
	if h.flags&^rowFlags != 0 {
		return nil, RowHeader{}, badRow(fmt.Sprintf("flags %#02x are not known to this program", h.flags))
	}
	size := h.size()
	if len(row) < size {
		return nil, RowHeader{}, badRow(fmt.Sprintf("%d bytes are too few for a header with flags %#02x", len(row), h.flags))
	}
	n := rowHeaderBytes
	if h.flags&rowFlagAccessed != 0 {
		h.Accessed = int64(binary.BigEndian.Uint64(row[n:]))
		n += 8
	}
	if h.flags&rowFlagVersion != 0 {
		h.Version = binary.BigEndian.Uint16(row[n:])
	}
	return row[size:], h, nil
}

// AppendRow appends the row value for a user's bytes and event time.
func AppendRow(dst, value []byte, time int64) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, rowFormat, 0), uint64(time))
	return append(dst, value...)
}

// AppendRowHeader appends the row value for a user's bytes and a header, as ParseRowHeader returned it or with times set.
func AppendRowHeader(dst, value []byte, h RowHeader) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, h.size())...)
	h.put(dst[n:])
	return append(dst, value...)
}

func badRow(reason string) error {
	return &fault.Error{
		Code: "store/row-format", Kind: fault.State, Thing: "row", Reason: reason,
		Remedy: "run the version of the program that wrote this state, or delete the state directory to restore from the changelog",
	}
}

func tooLong(code, thing string, n, limit int) error {
	return &fault.Error{
		Code: code, Kind: fault.Record, Thing: thing, Value: fmt.Sprintf("%d bytes", n),
		Reason: fmt.Sprintf("the limit is %d bytes", limit),
	}
}
