package runtime

import (
	"sync"

	"github.com/millrace-io/millrace/internal/task"
)

// mailbox is how everybody else talks to a worker. Sending never blocks: the poll loop and the group's callbacks must not
// wait for user code. It is bounded by what is sent: batches by the pausing of their partitions, the rest by the number
// of tasks.
type mailbox struct {
	mu   sync.Mutex
	msgs []message
	wake chan struct{} // capacity 1
}

// message is one of: a batch, a known end, a limit of event time, a task to take over, a task to give up, a checkpoint to refresh, a moment to stand still for.
type message struct {
	run     *taskRun
	batch   *task.Batch
	end     *knownEnd
	limit   *limit
	take    bool
	release *release
	hold    *hold
	refresh bool // write the checkpoint again with a new wall time
}

type knownEnd struct {
	input int
	end   int64 // last stable offset, -1 not known
	high  int64 // high watermark, -1 not known
}

// release asks a worker to give a task up.
type release struct {
	commit bool   // commit its work first; otherwise it is discarded
	reason string // for the log
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) send(msg message) {
	m.mu.Lock()
	m.msgs = append(m.msgs, msg)
	m.mu.Unlock()
	m.poke()
}

// poke wakes the worker although there is no message.
func (m *mailbox) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns all messages, in the order they were sent, into the memory of buf.
func (m *mailbox) take(buf []message) []message {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(buf[:cap(buf)])
	m.msgs, buf = buf[:0], m.msgs
	return buf
}
