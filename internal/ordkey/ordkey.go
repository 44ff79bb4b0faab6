// Package ordkey writes keys so that comparing their bytes compares their values, also when a key has several parts.
//
// Every encoding here is prefix-safe: no encoding of one value is the beginning of the encoding of another, so the rows
// under the part "1" are never mistaken for those under "11", and parts can simply be written one after the other.
// The bytes are drawn in docs/format/ordkey.md.
package ordkey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	escape     = 0x00 // a zero byte inside a string is written as escape, escaped
	escaped    = 0xFF
	terminator = 0x01 // a string ends with escape, terminator
)

// ErrMalformed is wrapped by every error of the decoders: the bytes were not written by this package, or are cut off.
var ErrMalformed = errors.New("ordkey: malformed key")

func short(what string, want, got int) error {
	return fmt.Errorf("%w: %s needs %d bytes, %d are left", ErrMalformed, what, want, got)
}

// AppendUint64 appends v as 8 bytes, big-endian.
func AppendUint64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// Uint64 reads what AppendUint64 wrote and returns the bytes after it.
func Uint64(src []byte) (v uint64, rest []byte, err error) {
	if len(src) < 8 {
		return 0, src, short("a uint64", 8, len(src))
	}
	return binary.BigEndian.Uint64(src), src[8:], nil
}

// AppendUint32 appends v as 4 bytes, big-endian.
func AppendUint32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// Uint32 reads what AppendUint32 wrote and returns the bytes after it.
func Uint32(src []byte) (v uint32, rest []byte, err error) {
	if len(src) < 4 {
		return 0, src, short("a uint32", 4, len(src))
	}
	return binary.BigEndian.Uint32(src), src[4:], nil
}

// AppendInt64 appends v as 8 bytes, big-endian with the sign bit flipped, so that -1 comes before 0.
func AppendInt64(dst []byte, v int64) []byte { return AppendUint64(dst, uint64(v)^1<<63) }

// Int64 reads what AppendInt64 wrote and returns the bytes after it.
func Int64(src []byte) (v int64, rest []byte, err error) {
	if len(src) < 8 {
		return 0, src, short("an int64", 8, len(src))
	}
	return int64(binary.BigEndian.Uint64(src) ^ 1<<63), src[8:], nil
}

// AppendInt32 appends v as 4 bytes, big-endian with the sign bit flipped.
func AppendInt32(dst []byte, v int32) []byte { return AppendUint32(dst, uint32(v)^1<<31) }

// Int32 reads what AppendInt32 wrote and returns the bytes after it.
func Int32(src []byte) (v int32, rest []byte, err error) {
	if len(src) < 4 {
		return 0, src, short("an int32", 4, len(src))
	}
	return int32(binary.BigEndian.Uint32(src) ^ 1<<31), src[4:], nil
}

// AppendFloat64 appends v as 8 bytes that sort as -Inf < negative < 0 < positive < +Inf < NaN. Negative zero is written
// as zero, because the two are equal, and every NaN as the same NaN.
func AppendFloat64(dst []byte, v float64) []byte {
	if v != v {
		v = math.NaN()
	} else if v == 0 {
		v = 0 // drops the sign of -0
	}
	bits := math.Float64bits(v)
	if bits>>63 != 0 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	return AppendUint64(dst, bits)
}

// Float64 reads what AppendFloat64 wrote and returns the bytes after it.
func Float64(src []byte) (v float64, rest []byte, err error) {
	bits, rest, err := Uint64(src)
	if err != nil {
		return 0, src, short("a float64", 8, len(src))
	}
	if bits>>63 != 0 {
		bits &^= 1 << 63
	} else {
		bits = ^bits
	}
	return math.Float64frombits(bits), rest, nil
}

// AppendBool appends one byte: 0 for false, 1 for true.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Bool reads what AppendBool wrote and returns the bytes after it.
func Bool(src []byte) (v bool, rest []byte, err error) {
	if len(src) < 1 {
		return false, src, short("a bool", 1, 0)
	}
	if src[0] > 1 {
		return false, src, fmt.Errorf("%w: a bool is 0 or 1, found %d", ErrMalformed, src[0])
	}
	return src[0] == 1, src[1:], nil
}

// AppendTime appends t as its milliseconds since 1970, in the form of AppendInt64. Fractions of a millisecond are dropped.
func AppendTime(dst []byte, t time.Time) []byte { return AppendInt64(dst, t.UnixMilli()) }

// Time reads what AppendTime wrote, as UTC, and returns the bytes after it.
func Time(src []byte) (t time.Time, rest []byte, err error) {
	ms, rest, err := Int64(src)
	if err != nil {
		return time.Time{}, src, short("a time", 8, len(src))
	}
	return time.UnixMilli(ms).UTC(), rest, nil
}

// AppendBytes appends v with an end mark: each zero byte becomes 00 FF, and 00 01 ends it. An empty v is the mark alone.
func AppendBytes(dst, v []byte) []byte {
	for {
		i := bytes.IndexByte(v, escape)
		if i < 0 {
			break
		}
		dst = append(append(dst, v[:i]...), escape, escaped)
		v = v[i+1:]
	}
	return append(append(dst, v...), escape, terminator)
}

// AppendString is AppendBytes for a string.
func AppendString(dst []byte, v string) []byte {
	start := 0
	for i := 0; i < len(v); i++ {
		if v[i] == escape {
			dst = append(append(dst, v[start:i]...), escape, escaped)
			start = i + 1
		}
	}
	return append(append(dst, v[start:]...), escape, terminator)
}

// Bytes reads what AppendBytes or AppendString wrote, appends the value to dst, and returns it and the bytes after the mark.
func Bytes(dst, src []byte) (v, rest []byte, err error) {
	v, rest = dst, src
	for {
		i := bytes.IndexByte(rest, escape)
		if i < 0 || i+1 == len(rest) {
			return dst, src, fmt.Errorf("%w: a string of %d bytes has no end mark", ErrMalformed, len(src))
		}
		v = append(v, rest[:i]...)
		mark := rest[i+1]
		rest = rest[i+2:]
		switch mark {
		case terminator:
			return v, rest, nil
		case escaped:
			v = append(v, escape)
		default:
			return dst, src, fmt.Errorf("%w: 00 %02X inside a string", ErrMalformed, mark)
		}
	}
}

// PrefixEnd appends to dst the least key that is greater than every key starting with prefix. ok is false when there is
// none, that is when prefix is empty or all FF; dst is then returned as it was.
func PrefixEnd(dst, prefix []byte) (end []byte, ok bool) {
	n := len(prefix)
	for n > 0 && prefix[n-1] == 0xFF {
		n--
	}
	if n == 0 {
		return dst, false
	}
	end = append(dst, prefix[:n]...)
	end[len(end)-1]++
	return end, true
}
