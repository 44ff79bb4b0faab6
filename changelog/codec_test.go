package changelog_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

var commit = txn.CommitID{TxnID: "millrace:shop:a:0:1", ProducerID: 7001, ProducerEpoch: 12, Random: 0x0102030405060708, Seq: 300}

var checkpoint = changelog.Checkpoint{
	Commit: commit, WallTime: 1_700_000_000_000, StreamTime: -1, Now: 1_700_000_000_001,
	Inputs: []changelog.InputOffset{{"lines", 3, 1000, 5}, {"rules", 3, 0, -1}},
	Stores: []changelog.StoreOffset{{"counts", 77}, {"seen", 0}}, Tasks: 41,
}

var taskRecord = changelog.TaskRecord{
	Commit: commit, StreamTime: 1_699_999_999_000, Now: 1_700_000_000_001,
	Inputs: []changelog.InputOffset{{"lines", 3, 1000, 5}},
}

// The bytes of format versions 1 and 2, for ever.
const (
	goldenCheckpoint1 = "6301136d696c6c726163653a73686f703a613a303a31b26d180102030405060708ac0280a0abfef9620182a0abfef96202056c696e657306d00f0a0572756c65730600010206636f756e74739a01047365656e0052c615627e"
	goldenTaskRecord1 = "7401136d696c6c726163653a73686f703a613a303a31b26d180102030405060708ac02b090abfef96282a0abfef96201056c696e657306d00f0a41246c32"

	goldenCheckpoint = "6302136d696c6c726163653a73686f703a613a303a31b26d180102030405060708ac0280a0abfef9620182a0abfef96202056c696e657306d00f0a0572756c65730600010206636f756e74739a01047365656e005200790358af"
	goldenTaskRecord = "7402136d696c6c726163653a73686f703a613a303a31b26d180102030405060708ac02b090abfef96282a0abfef96201056c696e657306d00f0a0059965b96"
)

func TestGoldenBytes(t *testing.T) {
	for _, g := range []struct{ name, got, want string }{
		{"checkpoint", hex.EncodeToString(checkpoint.Append(nil)), goldenCheckpoint},
		{"task record", hex.EncodeToString(taskRecord.Append(nil)), goldenTaskRecord},
	} {
		if g.got != g.want {
			t.Errorf("%s is\n  %s, must stay\n  %s", g.name, g.got, g.want)
		}
	}
}

// What an older program wrote is read as having no state of the kernel's.
func TestVersion1IsRead(t *testing.T) {
	row, _ := hex.DecodeString(goldenCheckpoint1)
	if got, err := changelog.ParseCheckpoint(row); err != nil || !reflect.DeepEqual(got, checkpoint) {
		t.Errorf("checkpoint %+v, %v", got, err)
	}
	row, _ = hex.DecodeString(goldenTaskRecord1)
	if got, err := changelog.ParseTaskRecord(row); err != nil || !reflect.DeepEqual(got, taskRecord) {
		t.Errorf("task record %+v, %v", got, err)
	}
}

func TestCodecsRoundTrip(t *testing.T) {
	prefix := []byte("before")
	for _, c := range []changelog.Checkpoint{{}, checkpoint, {
		Commit:   txn.CommitID{ProducerID: -1, ProducerEpoch: math.MinInt16, Random: math.MaxUint64, Seq: math.MaxUint64},
		WallTime: math.MinInt64, StreamTime: math.MaxInt64, Now: math.MinInt64, Tasks: math.MaxInt64, State: []byte{0, 1},
		Inputs: []changelog.InputOffset{{"", math.MinInt32, math.MaxInt64, math.MaxInt32}},
	}} {
		row := c.Append(prefix)
		if !bytes.HasPrefix(row, prefix) {
			t.Fatal("Append overwrote what was there")
		}
		got, err := changelog.ParseCheckpoint(row[len(prefix):])
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("checkpoint %+v came back as %+v, %v", c, got, err)
		}
	}
	for _, r := range []changelog.TaskRecord{{}, taskRecord} {
		got, err := changelog.ParseTaskRecord(r.Append(nil))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("task record %+v came back as %+v, %v", r, got, err)
		}
	}
}

// Every flipped bit, every cut, and every byte too many is found out.
func TestDamageIsFound(t *testing.T) {
	for what, row := range map[string][]byte{"checkpoint": checkpoint.Append(nil), "task record": taskRecord.Append(nil)} {
		parse := func(b []byte) error {
			if what == "checkpoint" {
				_, err := changelog.ParseCheckpoint(b)
				return err
			}
			_, err := changelog.ParseTaskRecord(b)
			return err
		}
		for i := range len(row) * 8 {
			bad := bytes.Clone(row)
			bad[i/8] ^= 1 << (i % 8)
			if code := fault.Code(parse(bad)); code != "changelog/damaged" {
				t.Errorf("%s with bit %d flipped: %q", what, i, code)
			}
		}
		for n := range row {
			if code := fault.Code(parse(row[:n])); code != "changelog/damaged" {
				t.Errorf("%s cut to %d bytes: %q", what, n, code)
			}
		}
		if code := fault.Code(parse(append(bytes.Clone(row), 0))); code != "changelog/damaged" {
			t.Errorf("%s with a byte too many: %q", what, code)
		}
	}
	// One is not the other.
	if _, err := changelog.ParseCheckpoint(taskRecord.Append(nil)); err == nil {
		t.Error("a task record was read as a checkpoint")
	}
}

// A newer version is told apart from damage: the remedy is another one.
func TestNewerVersion(t *testing.T) {
	for _, kind := range []byte{'c', 't'} {
		_, err := changelog.ParseCheckpoint(changelog.SealForTest([]byte{kind, 9, 1, 2, 3}))
		if kind == 't' {
			_, err = changelog.ParseTaskRecord(changelog.SealForTest([]byte{kind, 9, 1, 2, 3}))
		}
		var e *fault.Error
		if !errors.As(err, &e) || e.Code != "changelog/newer-format" || e.Kind != fault.State || !strings.Contains(e.Value, "9") {
			t.Errorf("version 9: %v", err)
		}
	}
}

// Counts and lengths that promise more than is there ask for no memory.
func TestBoundedDecode(t *testing.T) {
	good := checkpoint.Append(nil)
	body := good[:len(good)-4]
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x7f}
	for at := 2; at < len(body); at++ {
		bad := append(append(bytes.Clone(body[:at]), huge...), body[at:]...)
		bad = changelog.SealForTest(bad)
		if n := testing.AllocsPerRun(20, func() { _, _ = changelog.ParseCheckpoint(bad) }); n > 50 {
			t.Errorf("a huge number at %d: %v allocations", at, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(checkpoint.Append(nil))
	f.Add(taskRecord.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it is, and with a checksum that fits, so that the fuzzer gets behind it.
		for _, row := range [][]byte{b, changelog.SealForTest(bytes.Clone(b))} {
			if c, err := changelog.ParseCheckpoint(row); err == nil {
				if again, err := changelog.ParseCheckpoint(c.Append(nil)); err != nil || !reflect.DeepEqual(again, c) {
					t.Errorf("%+v came back as %+v, %v", c, again, err)
				}
			}
			if r, err := changelog.ParseTaskRecord(row); err == nil {
				if again, err := changelog.ParseTaskRecord(r.Append(nil)); err != nil || !reflect.DeepEqual(again, r) {
					t.Errorf("%+v came back as %+v, %v", r, again, err)
				}
			}
			_ = changelog.ApplyRegistryForTest("registry/topic/x", row)
			_ = changelog.ApplyRegistryForTest("registry/owner/store/x", row)
			_ = changelog.ApplyRegistryForTest("registry/store/x", row)
			_ = changelog.ApplyRegistryForTest("registry/value/x/1", row)
		}
	})
}

func TestTaskKeys(t *testing.T) {
	if k := string(changelog.TaskKey("counts", 3)); k != "counts/3" {
		t.Errorf("key %q", k)
	}
	for key, task := range map[string]bool{"counts/3": true, "registry/0": true, "registry/topic/x": false, "registry/owner/store/x": false} {
		if changelog.IsTaskKey([]byte(key)) != task {
			t.Errorf("%q is a task's key: %v, want %v", key, !task, task)
		}
	}
}
