package store

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
)

func TestRowHeader(t *testing.T) {
	for _, c := range []struct {
		name string
		h    RowHeader
		want string
	}{
		{"plain", RowHeader{Time: 1000, Version: 1}, "0100" + "00000000000003e8" + "7631"},
		{"accessed", RowHeader{Time: 1000, Accessed: 2000, Version: 1, flags: rowFlagAccessed}, "0101" + "00000000000003e8" + "00000000000007d0" + "7631"},
		{"permanent", RowHeader{Time: -1, Version: 1, flags: rowFlagPermanent}, "0102" + "ffffffffffffffff" + "7631"},
		{"version", RowHeader{Time: 1, Version: 2, flags: rowFlagVersion}, "0104" + "0000000000000001" + "0002" + "7631"},
		{"all", RowHeader{Time: 1, Accessed: 2, Version: 0x0102, flags: rowFlagAccessed | rowFlagPermanent | rowFlagVersion}, "0107" + "0000000000000001" + "0000000000000002" + "0102" + "7631"},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := AppendRowHeader(nil, []byte("v1"), c.h)
			if hex.EncodeToString(row) != c.want {
				t.Fatalf("%x, want %s", row, c.want)
			}
			value, h, err := ParseRowHeader(row)
			if err != nil || string(value) != "v1" || h != c.h {
				t.Fatalf("parsed %q %+v %v, want %+v", value, h, err, c.h)
			}
			if value, at, err := ParseRow(row); err != nil || string(value) != "v1" || at != c.h.Time {
				t.Fatalf("ParseRow %q %d %v", value, at, err)
			}
			for n := range len(row) - 2 {
				if _, _, err := ParseRowHeader(row[:n]); fault.Code(err) != "store/row-format" {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if _, _, err := ParseRow(row[:n]); fault.Code(err) != "store/row-format" {
					t.Fatalf("%d bytes: %v", n, err)
				}
			}
		})
	}
	for _, row := range []string{"0108000000000000000000", "0140000000000000000000", "0200000000000000000000"} {
		b, _ := hex.DecodeString(row)
		if _, _, err := ParseRow(b); fault.Code(err) != "store/row-format" {
			t.Errorf("%s: %v", row, err)
		}
	}
}

func FuzzRowHeader(f *testing.F) {
	f.Add(AppendRow(nil, []byte("v"), 5))
	f.Add(AppendRowHeader(nil, []byte("v"), RowHeader{Time: 1, Accessed: 2, Version: 3, flags: rowFlags}))
	f.Fuzz(func(t *testing.T, row []byte) {
		value, h, err := ParseRowHeader(row)
		if err != nil {
			return
		}
		if again := AppendRowHeader(nil, value, h); !bytes.Equal(again, row) {
			t.Fatalf("%x reads as %+v, which writes %x", row, h, again)
		}
	})
}
