package demo

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/observe"
)

// Progress counts what an application commits and shows it, with whatever else a program has to say, in a line that is
// rewritten several times a second on a terminal, and in a line every two seconds elsewhere.
type Progress struct {
	processed atomic.Int64 // records in committed epochs, in all subtopologies
	state     atomic.Pointer[string]
}

// Hooks are what to give to millrace.Observe.
func (p *Progress) Hooks() observe.Hooks {
	return observe.Hooks{
		Commit: func(c observe.Commit) { p.processed.Add(c.Records) },
		State:  func(c observe.StateChange) { p.state.Store(&c.To) },
	}
}

// Processed is how many records have been processed and committed.
func (p *Progress) Processed() int64 { return p.processed.Load() }

// Show writes the line to standard error until the function it returns is called.
func (p *Progress) Show(more func() string) (stop func()) {
	w, terminal := os.Stderr, isTerminal(os.Stderr)
	every, end := 2*time.Second, "\n"
	if terminal {
		every, end = 200*time.Millisecond, "\x1b[K\r"
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		p.show(w, every, end, more, done)
		if terminal {
			fmt.Fprintln(w)
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(done) })
		<-stopped
	}
}

func (p *Progress) show(w io.Writer, every time.Duration, end string, more func() string, done <-chan struct{}) {
	start := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	lastAt, last := start, int64(0)
	for {
		finished := false
		select {
		case <-tick.C:
		case <-done:
			finished = true
		}
		now, n := time.Now(), p.Processed()
		rate := float64(n-last) / now.Sub(lastAt).Seconds()
		if finished { // the last line tells of the whole run
			rate = float64(n) / now.Sub(start).Seconds()
		}
		state := "created"
		if s := p.state.Load(); s != nil {
			state = *s
		}
		fmt.Fprintf(w, "%6.1fs  %-11s  %s records processed, %s/s  %s%s", now.Sub(start).Seconds(), state, Number(n), Number(int64(rate)), more(), end)
		if finished {
			return
		}
		lastAt, last = now, n
	}
}

// Number prints n in groups of three digits.
func Number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
