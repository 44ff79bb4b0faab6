package streamtest

import (
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Upgrade kills the application, as Crash does, and starts another version of it on the same topics, changelogs and disks. Its
// subtopologies have to keep their names and topics their widths. What production refuses at such a start, a store whose codecs cannot
// read what was written, ends the test; with AllowFailure Err tells it, and the next Upgrade may do better.
func (d *Driver) Upgrade(top *topology.Topology) {
	d.t.Helper()
	before := d.top
	d.top = top
	if err := d.register(); err != nil {
		if !d.o.allowFail {
			d.fatalf("starting another version: %v", err)
		}
		d.top, d.err = before, err
		return
	}
	if err := d.create(); err != nil {
		d.fatalf("creating topics: %v", err)
	}
	d.crash(false)
}

// register compares the stores with what is remembered of them, as every start does.
func (d *Driver) register() error {
	var stores []store.Spec
	for _, s := range d.top.Subtopologies() {
		stores = append(stores, s.Stores...)
	}
	return d.registry.Remember(stores)
}
