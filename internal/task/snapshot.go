package task

// State is what the kernel keeps beside rows and offsets, encoded; nil when there is nothing. It is asked for when nothing is
// uncommitted (Dirty is false and every epoch is committed or discarded), and is what the last epoch had as its State.
func (t *Task) State() []byte { return t.keep(t.committed.clock) }
