package processor_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
)

func TestWithAndTombstone(t *testing.T) {
	at := time.UnixMilli(5)
	headers := []processor.Header{{Key: "h", Value: []byte("v")}}
	r := processor.Record[string, int]{Key: "k", Value: 1, Time: at, Headers: headers}

	null := r
	null.NullKey, null.NullValue = true, true
	if got, want := processor.With(null, 7, "new"), (processor.Record[int, string]{Key: 7, Value: "new", Time: at, Headers: headers}); !reflect.DeepEqual(got, want) {
		t.Errorf("With: %+v, want %+v", got, want)
	}
	if got, want := processor.Tombstone[bool](r), (processor.Record[string, bool]{Key: "k", NullValue: true, Time: at, Headers: headers}); !reflect.DeepEqual(got, want) {
		t.Errorf("Tombstone: %+v, want %+v", got, want)
	}
	if got := processor.Tombstone[bool](null); !got.NullKey {
		t.Errorf("Tombstone lost the null key: %+v", got)
	}
}

func TestNames(t *testing.T) {
	if got := (processor.TaskID{Subtopology: "counts", Partition: 3}).String(); got != "counts/3" {
		t.Errorf("task is %q", got)
	}
	for p, want := range map[processor.Policy]string{
		{}: "inherit", processor.Fail(): "fail", processor.Skip(): "skip", processor.DeadLetter("dead"): "dead-letter dead",
	} {
		if p.String() != want {
			t.Errorf("policy is %q, want %q", p, want)
		}
	}
}
