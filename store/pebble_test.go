package store

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/internal/fault"
)

// TestFatal ends a goroutine of Pebble's, and a call of ours, with the message that Pebble ends processes with.
func TestFatal(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *pebbleEngine {
		t.Helper()
		e, err := openAlone("db", fs, PebbleOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return e.(*pebbleEngine)
	}
	e := open()
	returned, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		pebbleLog{e}.Fatalf("the sky is %s", "falling")
		returned = true
	}()
	<-ended
	if returned {
		t.Error("Fatalf returned")
	}
	if _, _, err := e.Get(nil, []byte("a")); fault.Code(err) != "store/io" {
		t.Errorf("after it: %v", err)
	}
	if err := e.Close(); fault.Code(err) != "store/io" {
		t.Errorf("close: %v", err)
	}

	e = open() // the directory is free again
	if err := e.fatalInside(); fault.Code(err) != "store/io" {
		t.Errorf("in a call: %v", err)
	}
	if err := e.Close(); fault.Code(err) != "store/io" {
		t.Errorf("close: %v", err)
	}
	if err := open().Close(); err != nil {
		t.Error(err)
	}
}

// fatalInside is a call of the engine in which Pebble meets something fatal.
func (e *pebbleEngine) fatalInside() (err error) {
	defer e.recovered("test", &err)
	pebbleLog{e}.Fatalf("the sky is falling")
	return nil
}
