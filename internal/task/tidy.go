package task

const (
	tidyEvery   = 100  // milliseconds of processing time between two looks where no record comes
	tidyRows    = 256  // looked at by a Step, and
	tidyPerUnit = 4    // more for each record or timer of it,
	tidyMost    = 4096 // at most

	tidyBytes = 1 << 20 // of rows that are not committed: then they are
)

// tidy does a share of the state's house-keeping, as part of the epoch being filled: rows whose time to live is over, and rows of
// cleared collections. It is bounded, so that it never holds up a commit, and what is left is for the next Step.
func (t *Task) tidy(units int) error {
	t.tidied = t.now
	if !t.db.Untidy() {
		return nil
	}
	budget := min(tidyRows+tidyPerUnit*units, tidyMost)
	n, _, err := t.db.Sweep(budget)
	if err == nil && budget > n {
		_, _, err = t.db.SweepGarbage(budget - n)
	}
	if t.db.Dirty() || t.db.OverlayBytes() > tidyBytes { // rows that no changelog has need a commit too, some time
		t.touched = true
	}
	return err
}

// untidy reports whether it is time to look. While the task waits for another try, no Step does.
func (t *Task) untidy() bool {
	return t.now-t.tidied >= tidyEvery && t.retry.until <= t.now && t.db.Untidy()
}
