package task

// Drain tells the task that its inputs have ended: from the next Step on the event-time clock moves to the earliest timer that waits
// for it, one after another, until none is left. Timers that set others for ever never end. It is for bounded runs and tests, and
// does not outlive the Task; the clock does.
func (t *Task) Drain() { t.draining = t.events > 0 }

// drain moves the event-time clock to the earliest timer.
func (t *Task) drain() error {
	least, found := int64(0), false
	for i := range t.alarms {
		q := t.alarms[i].Queue
		if !q.EventTime() {
			continue
		}
		at, ok, err := q.Head()
		if err != nil {
			return err
		}
		if ok && (!found || at < least) {
			least, found = at, true
		}
	}
	if found {
		t.streamTime, t.advancing = max(t.streamTime, least), true
		t.db.SetClocks(t.now, t.streamTime)
	}
	return nil
}
