package changelog_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// TestDecide runs the truth table of docs/design/0005-restore.md, a case per command:
//
//	decide [stateless] [accept] [at-least-once]
//	group lines/0 10 ours time=50 commit=7     the group's offset; "absent"; "foreign" metadata; "unreadable" metadata;
//	                                           "at-least-once" if that is how it was written, here and of a record
//	record lines/0=10 time=50 commit=7         the task's record; with "state", something the kernel kept
//	checkpoint lines/0=10 counts=5 tasks=9 commit=7
//	changelog counts 0..5                      log start and end
//	tasks 9                                    end of the tasks topic
func TestDecide(t *testing.T) {
	datadriven.RunTest(t, "testdata/decide.txt", func(t *testing.T, d *datadriven.TestData) string {
		f := changelog.Found{Task: "counts/0", Group: "shop", Stateful: !d.HasArg("stateless"), AcceptOffsets: d.HasArg("accept"), TasksEnd: -1, Guarantee: txn.ExactlyOnce}
		if d.HasArg("at-least-once") {
			f.Guarantee = txn.AtLeastOnce
		}
		for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			if err := read(&f, strings.Fields(line)); err != nil {
				d.Fatalf(t, "%s: %v", line, err)
			}
		}
		return show(&f, changelog.Decide(&f))
	})
}

func read(f *changelog.Found, words []string) error {
	values := map[string]int64{}
	var inputs []changelog.InputOffset
	for _, w := range words[1:] {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return err
		}
		if topic, p, ok := strings.Cut(k, "/"); ok {
			part, err := strconv.Atoi(p)
			if err != nil {
				return err
			}
			inputs = append(inputs, changelog.InputOffset{Topic: topic, Partition: int32(part), Offset: n, LeaderEpoch: -1})
			continue
		}
		values[k] = n
	}
	var id txn.CommitID
	if n := values["commit"]; n > 0 {
		id = txn.CommitID{TxnID: "t", Seq: uint64(n)}
	}
	guarantee := txn.ExactlyOnce
	if slices.Contains(words, "at-least-once") {
		guarantee, id.ProducerID, id.ProducerEpoch = txn.AtLeastOnce, -2, -1
	}
	switch words[0] {
	case "group":
		topic, p, _ := strings.Cut(words[1], "/")
		part, err := strconv.Atoi(p)
		if err != nil {
			return err
		}
		in := changelog.FoundInput{Topic: topic, Partition: int32(part), Offset: -1}
		for _, w := range words[2:] {
			switch w {
			case "absent", "foreign", "at-least-once":
			case "ours":
				in.Ours = true
				in.Meta = txn.Meta{Commit: id, StreamTime: values["time"], Now: values["now"], Guarantee: guarantee}
			case "unreadable":
				in.Ours, in.MetaErr = true, errors.New("version 9")
			default:
				if n, err := strconv.ParseInt(w, 10, 64); err == nil {
					in.Offset = n
				}
			}
		}
		f.Inputs = append(f.Inputs, in)
	case "record":
		f.Record = &changelog.TaskRecord{Commit: id, StreamTime: values["time"], Now: values["now"], Inputs: inputs}
		if slices.Contains(words, "state") {
			f.Record.State = []byte{1}
		}
	case "checkpoint":
		c := &changelog.Checkpoint{Commit: id, Inputs: inputs, Tasks: values["tasks"]}
		if n, ok := values["counts"]; ok {
			c.Stores = []changelog.StoreOffset{{Store: "counts", Offset: n}}
		}
		f.Checkpoint = c
	case "changelog":
		from, to, _ := strings.Cut(words[2], "..")
		c := changelog.FoundChangelog{Store: words[1]}
		var err, err2 error
		c.Start, err = strconv.ParseInt(from, 10, 64)
		c.End, err2 = strconv.ParseInt(to, 10, 64)
		f.Changelogs = append(f.Changelogs, c)
		return errors.Join(err, err2)
	case "tasks":
		n, err := strconv.ParseInt(words[1], 10, 64)
		f.TasksEnd = n
		return err
	default:
		return errors.New("unknown word")
	}
	return nil
}

func show(f *changelog.Found, d changelog.Decision) string {
	if d.Action == changelog.Refuse {
		if d.Err == nil || d.Err.Kind != fault.State || d.Err.Remedy == "" {
			return "refusal without an error a person can act on"
		}
		return fmt.Sprintf("refuse: %v\n", d.Err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v:", d.Action)
	for i, in := range f.Inputs {
		at := "start"
		if d.Inputs[i] >= 0 {
			at = strconv.FormatInt(d.Inputs[i], 10)
		}
		fmt.Fprintf(&b, " %s/%d at %s", in.Topic, in.Partition, at)
	}
	fmt.Fprintf(&b, "; time %d now %d commit %d", d.StreamTime, d.Now, d.Commit.Seq)
	if d.State != nil {
		b.WriteString(", with the kernel's state")
	}
	b.WriteString("\n")
	if d.Say != "" {
		level := "say"
		if d.Alarm {
			level = "alarm"
		}
		fmt.Fprintf(&b, "%s: %s\n", level, d.Say)
	}
	if d.OnRecords != nil {
		fmt.Fprintf(&b, "refuse if the restore finds a record: %v\n", d.OnRecords)
	}
	return b.String()
}
