package oracle

// Commit is what one side says was committed last for one input partition.
type Commit struct {
	Offset int64
	ID     string // of the epoch that committed it, "" if that side does not say
}

// Commits checks that the group's committed offsets and the last records in the tasks topic tell the same story. Both
// are by partition of input. The group may be ahead by offsets at which there is no record, never by one, and never behind;
// where the offsets are equal and both name an epoch, it is the same epoch.
func Commits(input *Log, group, tasks []Commit) *Verdict {
	v := &Verdict{Check: "group offsets equal the last task records for " + input.Topic}
	for p := range input.Partitions {
		if len(input.Partitions[p].Records) == 0 {
			continue // never stepped: there may be neither
		}
		v.Seen++
		if p >= len(group) || p >= len(tasks) {
			v.wrong("%s/%d: group says %d partitions, task records %d", input.Topic, p, len(group), len(tasks))
			continue
		}
		g, t := group[p], tasks[p]
		switch {
		case g.Offset < t.Offset:
			v.wrong("%s/%d: group at %d is behind the task record at %d", input.Topic, p, g.Offset, t.Offset)
		case g.Offset > t.Offset:
			for _, r := range input.Partitions[p].Records {
				if r.Offset >= t.Offset && r.Offset < g.Offset {
					v.wrong("%s/%d: group at %d, task record at %d: record @%d is in between", input.Topic, p, g.Offset, t.Offset, r.Offset)
					break
				}
			}
		case g.ID != "" && t.ID != "" && g.ID != t.ID:
			v.wrong("%s/%d@%d: group was committed by epoch %s, task record by %s", input.Topic, p, g.Offset, g.ID, t.ID)
		}
	}
	return v
}
