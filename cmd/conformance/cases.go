package main

// kase is one acceptance case of stateful processing: what must come out, whatever engine holds the state and whether or not the
// process is killed between any two of its steps.
type kase struct {
	id    string
	what  string
	tests []string // tests that are it under another name, as "package.Test"; else sub-tests called by the id are
	note  string   // how it differs from Flink's behaviour, or where it has no counterpart
}

var cases = []struct {
	title string
	cases []kase
}{
	{"State", []kase{
		{id: "V-1", what: "a value that was never set is absent; keys are independent"},
		{id: "V-2", what: "a snapshot has the values of its commit, whatever was written later"},
		{id: "V-3", what: "deleting leaves nothing, and a tombstone in the changelog"},
		{id: "V-4", what: "two states on one key do not touch each other"},
		{id: "V-5", what: "a state nobody touches after a restart survives the next one"},
		{id: "V-6", what: "another codec for a known state is refused at start, also for keys", note: "Flink finds some of these at the first read"},
		{id: "V-7", what: "a reader from outside and the task do not disturb each other", note: "handles take the key, so there is no current key to disturb"},
		{id: "L-1", what: "an unset list is empty; replacing, and reading twice"},
		{id: "L-2", what: "adding nothing changes nothing"},
		{id: "L-3", what: "lists of two keys are independent"},
		{id: "L-4", what: "an element that stands for null is refused, and the list stays as it was", note: "a typed error instead of a NullPointerException"},
		{id: "L-5", what: "order and content at two commits"},
		{id: "L-6", what: "100,000 appends, a clear, one append: one element, also after a restore, and no old row stays in the changelog", note: "ours"},
		{id: "M-1", what: `the entries of key "1" are not those of "11"`},
		{id: "M-2", what: "every entry once; an iteration may delete and replace"},
		{id: "M-3", what: "clearing one key; the last entry's removal empties the map"},
		{id: "M-4", what: "a null or zero value is not an absent one"},
		{id: "RA-1", what: "reducing; absent before the first value and after a clear"},
		{id: "RA-2", what: "an average of nothing is absent, not zero"},
		{id: "RA-3", what: "merging namespaces"},
	}},
	{"Time to live", []kase{
		{id: "T-1", what: "counted from the last write; the row leaves when it is found expired"},
		{id: "T-2", what: "returned once more where that is wanted, and gone then"},
		{id: "T-3", what: "counted from the last read"},
		{id: "T-4", what: "the two together"},
		{id: "T-5", what: "the longest time to live does not overflow"},
		{id: "T-6", what: "alive one millisecond before, expired at the time"},
		{id: "T-7", what: "a deleted value does not come back as expired"},
		{id: "T-8", what: "several keys, and several namespaces, each with their own time"},
		{id: "T-9", what: "what expired is dropped by a restore, not just hidden"},
		{id: "T-10", what: "times come back with a snapshot"},
		{id: "T-11", what: "elements of a list expire one by one"},
		{id: "T-12", what: "entries of a map expire one by one", note: "IsEmpty looks at expiry too; Flink's does not"},
		{id: "T-13", what: "an expired accumulator does not go into the next"},
		{id: "T-14", what: "merging leaves out what has expired"},
		{id: "T-15", what: "a sweep removes rows that nobody reads"},
		{id: "T-16", what: "a sweep beside a commit in flight"},
		{id: "T-17", what: "switched on, off, longer, shorter, on state that is there", note: "no migration: every row has a header"},
		{id: "T-18", what: "what expired while the program was down is absent, and gets a tombstone", note: "ours"},
	}},
	{"Timers", []kase{
		{id: "TM-1", what: "event time: each timer once, with its key and namespace"},
		{id: "TM-2", what: "the same in processing time"},
		{id: "TM-3", what: "deleting"},
		{id: "TM-4", what: "setting a timer three times is one timer; one in each domain is two"},
		{id: "TM-5", what: "one wake-up is armed, at the earliest timer"},
		{id: "TM-6", what: "an earlier timer moves it"},
		{id: "TM-7", what: "timers set by timers"},
		{id: "TM-8", what: "a timer for the past fires at the next advance of the clock"},
		{id: "TM-9", what: "in order, with the clock where it is"},
		{id: "TM-10", what: "after a restore, each in its own task"},
		{id: "TM-11", what: "overdue ones at once and once; what was late stays late", note: "Flink's watermark begins anew after a restore; ours is kept"},
		{id: "TM-12", what: "a callback, its output and the end of its timer are one"},
		{id: "TM-13", what: "sessions with one pending timer per key; an event out of order never shortens one"},
		{id: "TM-14", what: "commits go on while 100,000 timers fire"},
	}},
	{"Clock", []kase{
		{id: "W-4", what: "bounded out-of-orderness; a watermark never goes back"},
		{id: "W-5", what: "a silent partition holds the clock, until it is idle"},
	}},
	{"Operator state", []kase{
		{id: "B-1", what: "rules reach every task, each as of its own position, over crashes and scaling", note: "all tasks see one order; Flink promises none"},
		{id: "B-2", what: "a rule may look at every key of a state"},
		{id: "RS-1", what: "each key is in exactly the task that owns it, whatever the number of instances"},
		{id: "RS-2", what: "partition state follows its partition: none lost, none doubled", note: "there is no split logic to test: the unit of redistribution is the partition"},
	}},
	{"Exactly once over Kafka", []kase{
		{id: "X-1", what: "counts by hundreds, with kills", tests: []string{"07-count100.TestExactlyEveryHundredth", "itest.TestCount100KillsItself"}},
		{id: "X-2", what: "a crash between flush and commit: invisible, and nobody waits long", tests: []string{"itest.TestKillsAtAnyInstant", "itest.TestOpenTransactionOfTheDead"}},
		{id: "X-3", what: "open transactions of the dead, over changes of the number of instances", tests: []string{"itest.TestOpenTransactionOfTheDead", "itest.TestScaling"}},
		{id: "X-4", what: "committed, and killed before it was noted", tests: []string{"itest.TestKillsAtAnyInstant", "itest.TestKillCostsNoState"}},
		{id: "X-5", what: "nothing processed: no transaction", tests: []string{"millrace.TestIdleWritesNothing"}},
		{id: "X-6", what: "a frozen instance is fenced", tests: []string{"itest.TestFrozenInstanceIsFenced"}},
		{id: "X-7", what: "brokers that stop, pause and come back", tests: []string{"itest.TestBrokerDiesAndPauses", "itest.TestProtocolFaults"}},
		{id: "X-8", what: "another guarantee, or another instance of the name, is refused or taken over", tests: []string{"itest.TestSwitchOfGuarantee", "itest.TestTwoOfOneName"}},
		{id: "X-9", what: "kills for as long as it takes", tests: []string{"itest.TestKillsAtAnyInstant", "itest.TestKillsAcrossARepartition"}},
	}},
}
