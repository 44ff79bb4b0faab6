package registry

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// The wire format in front of each value (docs/format/schema-frame.md):
//
//	0       1                       5
//	+-------+-----------------------+-----
//	| 0     | schema id, big-endian | value
//	+-------+-----------------------+-----
const (
	frameMagic = 0
	frameBytes = 5
)

// AppendFrame appends what stands in front of a value that was written with the schema of id.
func AppendFrame(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, frameMagic), uint32(id))
}

// ParseFrame splits bytes into the schema's id and the value. thing names whoever reads, for the error.
func ParseFrame(src []byte, thing string) (id int, value []byte, err error) {
	switch {
	case len(src) < frameBytes:
		return 0, nil, badFrame(thing, fmt.Sprintf("%d bytes are too few for a magic byte and a schema id", len(src)))
	case src[0] != frameMagic:
		return 0, nil, badFrame(thing, fmt.Sprintf("its first byte is %d, not the 0 that a schema id follows", src[0]))
	}
	return int(binary.BigEndian.Uint32(src[1:])), src[frameBytes:], nil
}

func badFrame(thing, reason string) error {
	return &fault.Error{Code: "schema/frame", Kind: fault.Record, Thing: thing, Reason: reason,
		Remedy: "if the writer uses no schema registry, read with a codec without one"}
}
