// Package measure is how the programs of the benchmark speak, and how they and the harness find out what a process costs.
package measure

import (
	"encoding/json"
	"io"
	"math"
	"sync"
	"time"
)

// Line is one line of JSON on the standard output of a program under test.
//
//	running    it is ready to process
//	progress   each second
//	restored   one store of one task is complete
//	done       it has stopped; the last line
type Line struct {
	Event string  `json:"event"`
	At    float64 `json:"at"` // unix seconds

	Records    int64   `json:"records"`               // processed and committed, or restored
	Seconds    float64 `json:"seconds"`               // since running, or of the restore
	CPUSeconds float64 `json:"cpu_seconds,omitempty"` // user and system, of the whole process
	RSSMax     int64   `json:"rss_max,omitempty"`     // bytes
	Commits    int64   `json:"commits,omitempty"`
	Aborts     int64   `json:"aborts,omitempty"`
	CommitMS   float64 `json:"commit_ms,omitempty"` // mean time from the end of an epoch to the answer
	Task       string  `json:"task,omitempty"`
	Store      string  `json:"store,omitempty"`
	Rebuild    bool    `json:"rebuild,omitempty"` // restored: from the start, because the local copy was not trusted

	// Of the whole process while it was warm, per input record. Zero: it was not long enough at work to say.
	Allocs     float64 `json:"allocs_per_record,omitempty"`
	AllocBytes float64 `json:"bytes_per_record,omitempty"`
}

// Out writes lines. Any goroutine may use it.
type Out struct {
	mu  sync.Mutex
	enc *json.Encoder
}

// NewOut writes to w.
func NewOut(w io.Writer) *Out { return &Out{enc: json.NewEncoder(w)} }

// Say writes one line, with the time now. A reader that has gone away is nobody to tell.
func (o *Out) Say(l Line) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.At = Seconds(time.Now())
	l.Seconds = math.Round(l.Seconds*1000) / 1000
	_ = o.enc.Encode(l)
}

// Seconds is t as unix seconds.
func Seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
