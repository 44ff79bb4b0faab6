package store

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// A row's value is a header and the user's bytes (docs/format/rows.md):
//
//	0       1       2               10                    (18)
//	+-------+-------+---------------+---------------------+------
//	| format| flags | event time    | access time, if     | value
//	| = 1   |       | 8, big-endian | flags has accessed  |
//	+-------+-------+---------------+---------------------+------
const (
	rowFormat       = 1
	rowFlagAccessed = 1 << 0 // an access time follows the event time
	rowHeaderBytes  = 10
)

const (
	// KeyBytesMax is the greatest length of a row's key in its stored form.
	KeyBytesMax = 64 << 10
	// ValueBytesMax is the greatest length of a row's value. A changelog topic takes far less unless it is configured to.
	ValueBytesMax = 64 << 20
)

// ParseRow splits a row's value, as it is in the engine and in the changelog, into the user's bytes and the event time.
// The slice is part of row.
func ParseRow(row []byte) (value []byte, time int64, err error) {
	if len(row) < rowHeaderBytes {
		return nil, 0, badRow(fmt.Sprintf("%d bytes are too few for a header", len(row)))
	}
	if row[0] != rowFormat {
		return nil, 0, badRow(fmt.Sprintf("format version %d is not known to this program", row[0]))
	}
	n := rowHeaderBytes
	if flags := row[1]; flags != 0 {
		if flags&^rowFlagAccessed != 0 {
			return nil, 0, badRow(fmt.Sprintf("flags %#02x are not known to this program", flags))
		}
		if n += 8; len(row) < n {
			return nil, 0, badRow(fmt.Sprintf("%d bytes are too few for a header with access time", len(row)))
		}
	}
	return row[n:], int64(binary.BigEndian.Uint64(row[2:])), nil
}

// AppendRow appends the row value for a user's bytes and event time.
func AppendRow(dst, value []byte, time int64) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, rowFormat, 0), uint64(time))
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
