package assign

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
)

// What members send each other is drawn in docs/format/join-userdata.md. It comes from other processes, maybe of another
// version or with a bug: nothing is allocated for a count that the bytes at hand cannot hold.
const (
	userDataVersion = 1 // the layout written
	userDataReads   = 1 // the newest layout understood; a reader goes by the "readable by" byte

	maxUserData = 1 << 20
	maxText     = 1024
	maxWorkers  = 1 << 16
	maxCapacity = 1 << 24
	maxVersions = 16
	maxSubs     = 4096
	maxSources  = 1024
	maxTasks    = 1 << 20
	maxCopies   = 1 << 17
	maxMembers  = 1 << 14

	flagStateful = 1
)

// appendMember appends a member's user data. Equal members give equal bytes: everything is sorted first.
func appendMember(dst []byte, m *Member) []byte {
	dst = append(dst, userDataVersion, userDataVersion, m.Guarantee)
	dst = binary.AppendUvarint(dst, uint64(clamp(m.Workers, 1, maxWorkers)))
	dst = binary.AppendUvarint(dst, uint64(clamp(m.Capacity, 0, maxCapacity)))
	dst = binary.BigEndian.AppendUint64(dst, m.Fingerprint)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Since))
	dst = appendText(dst, m.Instance)
	dst = appendText(dst, m.Address)
	dst = appendVersions(dst, m.Known)

	subs := slices.Clone(m.Subtopologies)
	slices.SortFunc(subs, func(a, b SubtopologySpec) int { return cmp.Compare(a.Name, b.Name) })
	dst = binary.AppendUvarint(dst, uint64(len(subs)))
	for _, s := range subs {
		dst = appendText(dst, s.Name)
		dst = binary.BigEndian.AppendUint64(dst, s.Hash)
		var flags byte
		if s.Stateful {
			flags |= flagStateful
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, uint64(clamp(int(s.Tasks), 0, maxTasks)))
		sources := slices.Compact(slices.Sorted(slices.Values(s.Sources)))
		dst = binary.AppendUvarint(dst, uint64(len(sources)))
		for _, topic := range sources {
			dst = appendText(dst, topic)
		}
	}
	dst = appendPositions(dst, m.Positions)
	return appendTasks(dst, m.Promised)
}

// appendPositions writes positions in groups by subtopology. They are hints: what is beyond the limit is left out.
func appendPositions(dst []byte, positions []Position) []byte {
	ps := slices.DeleteFunc(slices.Clone(positions), func(p Position) bool { return p.Offset <= 0 || p.Task.Partition < 0 })
	slices.SortFunc(ps, func(a, b Position) int { return compareTasks(a.Task, b.Task) })
	ps = slices.CompactFunc(ps, func(a, b Position) bool { return a.Task == b.Task })
	ps = ps[:min(len(ps), maxCopies)]
	return appendGroups(dst, len(ps), func(i int) processor.TaskID { return ps[i].Task }, func(dst []byte, i int) []byte {
		return binary.AppendUvarint(dst, uint64(ps[i].Offset))
	})
}

func appendTasks(dst []byte, tasks []processor.TaskID) []byte {
	ts := slices.DeleteFunc(slices.Clone(tasks), func(t processor.TaskID) bool { return t.Partition < 0 })
	slices.SortFunc(ts, compareTasks)
	ts = slices.Compact(ts)
	ts = ts[:min(len(ts), maxCopies)]
	return appendGroups(dst, len(ts), func(i int) processor.TaskID { return ts[i] }, func(dst []byte, _ int) []byte { return dst })
}

// appendGroups writes n sorted tasks in groups by subtopology, each task followed by what more has to say about it.
func appendGroups(dst []byte, n int, task func(int) processor.TaskID, more func([]byte, int) []byte) []byte {
	var starts []int
	for i := range n {
		if i == 0 || task(i).Subtopology != task(i-1).Subtopology {
			starts = append(starts, i)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(starts)))
	for g, start := range starts {
		end := n
		if g+1 < len(starts) {
			end = starts[g+1]
		}
		dst = appendText(dst, task(start).Subtopology)
		dst = binary.AppendUvarint(dst, uint64(end-start))
		for i := start; i < end; i++ {
			dst = binary.AppendUvarint(dst, uint64(task(i).Partition))
			dst = more(dst, i)
		}
	}
	return dst
}

func appendVersions(dst []byte, versions []Version) []byte {
	vs := mergeVersions(slices.Clone(versions))
	vs = vs[:min(len(vs), maxVersions)]
	dst = binary.AppendUvarint(dst, uint64(len(vs)))
	for _, v := range vs {
		dst = binary.BigEndian.AppendUint64(dst, v.Fingerprint)
		dst = binary.BigEndian.AppendUint64(dst, uint64(v.Since))
	}
	return dst
}

// parseMember reads a member's user data. Strings are copied: nothing of data is kept.
func parseMember(data []byte) (Member, error) {
	r := newReader(data)
	var m Member
	m.Guarantee = r.byte()
	m.Workers = int(r.count("workers", maxWorkers))
	m.Capacity = int(r.count("capacity", maxCapacity))
	m.Fingerprint = r.uint64()
	m.Since = int64(r.uint64())
	m.Instance = r.text()
	m.Address = r.text()
	m.Known = r.versions()
	for range r.items("subtopologies", maxSubs, 12) {
		s := SubtopologySpec{Name: r.text(), Hash: r.uint64()}
		s.Stateful = r.byte()&flagStateful != 0
		s.Tasks = int32(r.count("tasks", maxTasks))
		for range r.items("sources", maxSources, 1) {
			s.Sources = append(s.Sources, r.text())
		}
		m.Subtopologies = append(m.Subtopologies, s)
	}
	r.groups(func(t processor.TaskID) {
		m.Positions = append(m.Positions, Position{t, int64(r.count("position", math.MaxInt64))})
	})
	m.Promised = r.tasks()
	if r.err != nil {
		return Member{}, r.err
	}
	return m, nil
}

// Instance is a living member as every member learns of it.
type Instance struct {
	Name    string
	Address string
	Workers int
}

// Echo is what the leader tells every member along with its assignment (docs/format/join-userdata.md): what they need to
// know of each other, and why there is nothing new for them if there is not.
type Echo struct {
	// Generation of the group that the plan was made for.
	Generation int32
	// Winner is the fingerprint of the newest topology; whoever has another keeps what it has and gets what it shares with it.
	Winner   uint64
	Versions []Version
	// Instances is who lives in this generation, in order of names. A restarted instance can be in it twice until its former
	// self has timed out.
	Instances []Instance
	// Promised are the tasks that this member will get when their owners have let go of them.
	Promised []processor.TaskID
	// Withheld is the number of tasks that wait for their owner to let go of them: another rebalance follows.
	Withheld int
	// Unassigned is the number of tasks that nobody can have.
	Unassigned int
	// Refused says why the group as it is gets nothing new.
	Refused *fault.Error
	// Err is set, and everything else unknown, when the leader's words could not be read. Nobody may be taken for dead then.
	Err error
}

// Lives reports whether an instance of that name is in the group.
func (e *Echo) Lives(name string) bool {
	_, found := slices.BinarySearchFunc(e.Instances, name, func(i Instance, name string) int { return cmp.Compare(i.Name, name) })
	return found
}

// Echo is what the plan has to say to everybody.
func (p *Plan) Echo() Echo {
	return Echo{
		Generation: p.Generation, Winner: p.Winner, Versions: p.Versions, Instances: p.Instances,
		Withheld: len(p.Withheld), Unassigned: len(p.Unassigned), Refused: p.Refused,
	}
}

// appendEcho appends an echo. What differs between members, Promised, is its end.
func appendEcho(dst []byte, e *Echo) []byte {
	return appendTasks(appendWords(dst, e), e.Promised)
}

// appendWords appends the part of an echo that is the same for everybody.
func appendWords(dst []byte, e *Echo) []byte {
	dst = append(dst, userDataVersion, userDataVersion)
	dst = binary.BigEndian.AppendUint32(dst, uint32(e.Generation))
	dst = binary.BigEndian.AppendUint64(dst, e.Winner)
	dst = appendVersions(dst, e.Versions)
	all := slices.Clone(e.Instances)
	slices.SortStableFunc(all, func(a, b Instance) int { return cmp.Compare(a.Name, b.Name) })
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, i := range all {
		dst = appendText(dst, i.Name)
		dst = appendText(dst, i.Address)
		dst = binary.AppendUvarint(dst, uint64(clamp(i.Workers, 1, maxWorkers)))
	}
	dst = binary.AppendUvarint(dst, uint64(e.Withheld))
	dst = binary.AppendUvarint(dst, uint64(e.Unassigned))
	if e.Refused == nil {
		return append(dst, 0)
	}
	dst = append(dst, 1, byte(e.Refused.Kind))
	for _, s := range []string{e.Refused.Code, e.Refused.Thing, e.Refused.Value, e.Refused.Reason, e.Refused.Remedy} {
		dst = appendText(dst, s)
	}
	return dst
}

func parseEcho(data []byte) (Echo, error) {
	r := newReader(data)
	e := Echo{Generation: int32(r.uint32()), Winner: r.uint64(), Versions: r.versions()}
	for range r.items("instances", maxMembers, 3) {
		e.Instances = append(e.Instances, Instance{Name: r.text(), Address: r.text(), Workers: int(r.count("workers", maxWorkers))})
	}
	e.Withheld = int(r.count("withheld", maxTasks))
	e.Unassigned = int(r.count("unassigned", maxTasks))
	if r.byte() != 0 {
		e.Refused = &fault.Error{Kind: fault.Kind(r.byte())}
		for _, s := range []*string{&e.Refused.Code, &e.Refused.Thing, &e.Refused.Value, &e.Refused.Reason, &e.Refused.Remedy} {
			*s = r.text()
		}
	}
	e.Promised = r.tasks()
	if r.err != nil {
		return Echo{}, r.err
	}
	slices.SortStableFunc(e.Instances, func(a, b Instance) int { return cmp.Compare(a.Name, b.Name) }) // Lives searches it
	return e, nil
}

// reader takes values off the front of untrusted bytes. After its first error it returns zero values. What follows the last
// value it is asked for is of a later version, and left alone.
type reader struct {
	data []byte
	err  error
}

func newReader(data []byte) *reader {
	r := &reader{data: data}
	if len(data) > maxUserData {
		r.fail("%d bytes, more than %d", len(data), maxUserData)
		return r
	}
	version, needs := r.byte(), r.byte()
	if r.err == nil && (version == 0 || needs == 0 || needs > userDataReads) {
		r.fail("version %d, readable from version %d on; this is version %d", version, needs, userDataReads)
	}
	return r
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("assign: user data: "+format, args...)
	}
	r.data = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.data) {
		r.fail("cut short")
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count reads a number that may be at most limit.
func (r *reader) count(what string, limit uint64) uint64 {
	v, n := binary.Uvarint(r.data)
	switch {
	case r.err != nil:
		return 0
	case n == 0:
		r.fail("cut short")
		return 0
	case n < 0 || v > limit:
		r.fail("%s above %d", what, limit)
		return 0
	}
	r.data = r.data[n:]
	return v
}

// items reads how many things of at least size bytes follow.
func (r *reader) items(what string, limit uint64, size int) int {
	n := r.count(what, limit)
	if n > uint64(len(r.data)/size) {
		r.fail("%d %s in %d bytes", n, what, len(r.data))
		return 0
	}
	return int(n)
}

func (r *reader) text() string { return string(r.take(int(r.count("length of a name", maxText)))) }

// groups reads tasks in groups by subtopology; each reads what follows a task.
func (r *reader) groups(each func(processor.TaskID)) {
	for range r.items("groups of tasks", maxCopies, 2) {
		name := r.text()
		for range r.items("tasks", maxCopies, 1) {
			each(processor.TaskID{Subtopology: name, Partition: int32(r.count("partition", math.MaxInt32))})
		}
	}
}

func (r *reader) tasks() []processor.TaskID {
	var ts []processor.TaskID
	r.groups(func(t processor.TaskID) { ts = append(ts, t) })
	return ts
}

func (r *reader) versions() []Version {
	var vs []Version
	for range r.items("versions", maxVersions, 16) {
		vs = append(vs, Version{Fingerprint: r.uint64(), Since: int64(r.uint64())})
	}
	return vs
}

func appendText(dst []byte, s string) []byte {
	s = s[:min(len(s), maxText)]
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func clamp(v, low, high int) int { return min(max(v, low), high) }
