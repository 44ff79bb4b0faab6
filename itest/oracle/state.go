package oracle

import (
	"fmt"
	"slices"
)

// Fold is the state a plain Go map has after all records of input: for each key, step applied to its values in order.
// Every key is on one partition, so the order of the partitions does not matter.
func Fold[S any](input *Log, step func(state S, value []byte) S) map[string]S {
	m := make(map[string]S)
	for p := range input.Partitions {
		for _, r := range input.Partitions[p].Records {
			m[string(r.Key)] = step(m[string(r.Key)], r.Value)
		}
	}
	return m
}

// Row versions and flags as docs/format/rows.md draws them. The oracle has its own reading of the page on purpose.
const (
	rowVersion = 1
	rowAccess  = 1 << 0
)

// Changelog is the state a changelog topic stands for: the last value of each key that is not a tombstone, without the
// row header. key and value decode; an error is a difference.
func Changelog[S any](l *Log, key func([]byte) (string, error), value func([]byte) (S, error)) (map[string]S, *Verdict) {
	v := &Verdict{Check: l.Topic + " decodes"}
	m := make(map[string]S)
	for p := range l.Partitions {
		for _, r := range l.Partitions[p].Records {
			v.Seen++
			k, err := key(r.Key)
			if err != nil {
				v.wrong("%s/%d@%d: key %x: %v", l.Topic, p, r.Offset, r.Key, err)
				continue
			}
			if r.Value == nil {
				delete(m, k)
				continue
			}
			body, err := RowBody(r.Value)
			if err != nil {
				v.wrong("%s/%d@%d key %q: %v", l.Topic, p, r.Offset, k, err)
				continue
			}
			s, err := value(body)
			if err != nil {
				v.wrong("%s/%d@%d key %q: value %x: %v", l.Topic, p, r.Offset, k, body, err)
				continue
			}
			m[k] = s
		}
	}
	return m, v
}

// RowBody returns the value of a row without its header.
func RowBody(row []byte) ([]byte, error) {
	const short = 1 + 1 + 8
	if len(row) < short {
		return nil, fmt.Errorf("row of %d bytes has no header", len(row))
	}
	if row[0] != rowVersion {
		return nil, fmt.Errorf("row version %d, want %d", row[0], rowVersion)
	}
	n := short
	if row[1]&rowAccess != 0 {
		n += 8
	}
	if len(row) < n {
		return nil, fmt.Errorf("row of %d bytes, its header says %d", len(row), n)
	}
	return row[n:], nil
}

// Same checks that two states are equal: no key missing, none too many, equal values.
func Same[S comparable](what string, want, got map[string]S) *Verdict {
	v := &Verdict{Check: what}
	for _, k := range sortedKeys(want) {
		v.Seen++
		if g, ok := got[k]; !ok {
			v.wrong("key %q: absent, want %v", k, want[k])
		} else if g != want[k] {
			v.wrong("key %q: %v, want %v", k, g, want[k])
		}
	}
	for _, k := range sortedKeys(got) {
		if _, ok := want[k]; !ok {
			v.wrong("key %q: %v, want it absent", k, got[k])
		}
	}
	return v
}

func sortedKeys[S any](m map[string]S) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
