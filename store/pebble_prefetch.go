package store

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
)

// ReadSorted is one iterator that only ever goes forward: blocks and memtable nodes it passes are not looked for again, as
// every Get does, and the filters spare it the tables that do not have a key.
func (e *pebbleEngine) ReadSorted(keys [][]byte, each func(i int, value []byte, ok bool) (more bool)) (err error) {
	if err := e.ready(); err != nil || len(keys) == 0 {
		return err
	}
	defer e.recovered("read", &err)
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: keys[0]})
	if err != nil {
		return e.wrap("read", err)
	}
	defer func() {
		if e.broken.Load() {
			return
		}
		if cerr := it.Close(); cerr != nil && err == nil {
			err = e.wrap("read", cerr)
		}
	}()
	for i, key := range keys {
		var value []byte
		ok := it.SeekPrefixGE(key) && bytes.Equal(it.Key(), key)
		if ok {
			if value, err = it.ValueAndErr(); err != nil {
				return e.wrap("read", err)
			}
		} else if err := it.Error(); err != nil {
			return e.wrap("read", err)
		}
		if !each(i, value, ok) {
			return nil
		}
	}
	return nil
}
