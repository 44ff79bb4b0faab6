package serde

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/ordkey"
)

// wrongLength is the error of a fixed-size codec that was handed another number of bytes.
func wrongLength(what string, want, got int) error {
	return &fault.Error{
		Code: "serde/length", Kind: fault.Record, Thing: what, Value: count(got),
		Reason: "expected exactly " + count(want),
		Remedy: "check that the writer of these bytes uses the same codec",
	}
}

func count(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return strconv.Itoa(n) + " bytes"
}

// String is the codec of strings: their bytes as they are. Bytes that are not valid UTF-8 are kept, both ways: a key that
// another program wrote in Latin-1 comes back unchanged.
func String() Serde[string] { return stringSerde{} }

type stringSerde struct{}

func (stringSerde) ID() string                                  { return "string" }
func (stringSerde) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (stringSerde) Decode(src []byte) (string, error)           { return string(src), nil }

// Bytes is the codec of byte slices: the bytes as they are. Decode returns a copy; it is never nil, since no bytes and null
// are different things (for null see Optional).
func Bytes() Serde[[]byte] { return bytesSerde{} }

type bytesSerde struct{}

func (bytesSerde) ID() string                                  { return "bytes" }
func (bytesSerde) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }
func (bytesSerde) Decode(src []byte) ([]byte, error) {
	return append(make([]byte, 0, len(src)), src...), nil
}

// Int32 is the codec of int32: 4 bytes, big-endian two's complement, as Java's IntegerSerializer. It is Ordered.
func Int32() Serde[int32] { return int32Serde{} }

type int32Serde struct{}

func (int32Serde) ID() string { return "int32" }
func (int32Serde) Width() int { return 4 }

func (int32Serde) Append(dst []byte, v int32) ([]byte, error) {
	return binary.BigEndian.AppendUint32(dst, uint32(v)), nil
}

func (int32Serde) Decode(src []byte) (int32, error) {
	if len(src) != 4 {
		return 0, wrongLength("int32", 4, len(src))
	}
	return int32(binary.BigEndian.Uint32(src)), nil
}

func (int32Serde) AppendOrdered(dst []byte, v int32) ([]byte, error) {
	return ordkey.AppendInt32(dst, v), nil
}

func (int32Serde) DecodeOrdered(src []byte) (int32, error) {
	if len(src) != 4 {
		return 0, wrongLength("int32 key", 4, len(src))
	}
	v, _, err := ordkey.Int32(src)
	return v, err
}

// Int64 is the codec of int64: 8 bytes, big-endian two's complement, as Java's LongSerializer. It is Ordered.
func Int64() Serde[int64] { return int64Serde{} }

type int64Serde struct{}

func (int64Serde) ID() string { return "int64" }
func (int64Serde) Width() int { return 8 }

func (int64Serde) Append(dst []byte, v int64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(dst, uint64(v)), nil
}

func (int64Serde) Decode(src []byte) (int64, error) {
	if len(src) != 8 {
		return 0, wrongLength("int64", 8, len(src))
	}
	return int64(binary.BigEndian.Uint64(src)), nil
}

func (int64Serde) AppendOrdered(dst []byte, v int64) ([]byte, error) {
	return ordkey.AppendInt64(dst, v), nil
}

func (int64Serde) DecodeOrdered(src []byte) (int64, error) {
	if len(src) != 8 {
		return 0, wrongLength("int64 key", 8, len(src))
	}
	v, _, err := ordkey.Int64(src)
	return v, err
}

// Float64 is the codec of float64: its 8 bytes of IEEE 754, big-endian, as Java's DoubleSerializer. It is Ordered; as a
// store key -0 is 0 and every NaN is the same one, sorted last.
func Float64() Serde[float64] { return float64Serde{} }

type float64Serde struct{}

func (float64Serde) ID() string { return "float64" }
func (float64Serde) Width() int { return 8 }

func (float64Serde) Append(dst []byte, v float64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(v)), nil
}

func (float64Serde) Decode(src []byte) (float64, error) {
	if len(src) != 8 {
		return 0, wrongLength("float64", 8, len(src))
	}
	return math.Float64frombits(binary.BigEndian.Uint64(src)), nil
}

func (float64Serde) AppendOrdered(dst []byte, v float64) ([]byte, error) {
	return ordkey.AppendFloat64(dst, v), nil
}

func (float64Serde) DecodeOrdered(src []byte) (float64, error) {
	if len(src) != 8 {
		return 0, wrongLength("float64 key", 8, len(src))
	}
	v, _, err := ordkey.Float64(src)
	return v, err
}

// Bool is the codec of bool: one byte, 1 for true and 0 for false. Any other byte is an error. It sorts false before true
// as it is.
func Bool() Serde[bool] { return boolSerde{} }

type boolSerde struct{}

func (boolSerde) ID() string                                { return "bool" }
func (boolSerde) Width() int                                { return 1 }
func (boolSerde) Append(dst []byte, v bool) ([]byte, error) { return ordkey.AppendBool(dst, v), nil }

func (boolSerde) Decode(src []byte) (bool, error) {
	if len(src) != 1 {
		return false, wrongLength("bool", 1, len(src))
	}
	if src[0] > 1 {
		return false, &fault.Error{
			Code: "serde/value", Kind: fault.Record, Thing: "bool",
			Reason: "its byte is neither 0 nor 1",
			Remedy: "check that the writer of these bytes uses the same codec",
		}
	}
	return src[0] == 1, nil
}

// Time is the codec of time.Time: milliseconds since 1970 as 8 bytes, in the form of Int64. Fractions of a millisecond
// and the location are not kept: Decode returns UTC. A time whose milliseconds do not fit is an error. It is Ordered.
func Time() Serde[time.Time] { return timeSerde{} }

type timeSerde struct{}

func (timeSerde) ID() string { return "time-ms" }
func (timeSerde) Width() int { return 8 }

func millis(t time.Time) (int64, error) {
	const secondsMax = math.MaxInt64/1000 - 1
	if s := t.Unix(); s > secondsMax || s < -secondsMax {
		return 0, &fault.Error{
			Code: "serde/range", Kind: fault.Record, Thing: "time",
			Reason: "its milliseconds since 1970 do not fit an int64",
		}
	}
	return t.UnixMilli(), nil
}

func (timeSerde) Append(dst []byte, v time.Time) ([]byte, error) {
	ms, err := millis(v)
	if err != nil {
		return dst, err
	}
	return binary.BigEndian.AppendUint64(dst, uint64(ms)), nil
}

func (timeSerde) Decode(src []byte) (time.Time, error) {
	if len(src) != 8 {
		return time.Time{}, wrongLength("time", 8, len(src))
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(src))).UTC(), nil
}

func (timeSerde) AppendOrdered(dst []byte, v time.Time) ([]byte, error) {
	ms, err := millis(v)
	if err != nil {
		return dst, err
	}
	return ordkey.AppendInt64(dst, ms), nil
}

func (timeSerde) DecodeOrdered(src []byte) (time.Time, error) {
	if len(src) != 8 {
		return time.Time{}, wrongLength("time key", 8, len(src))
	}
	v, _, err := ordkey.Time(src)
	return v, err
}
