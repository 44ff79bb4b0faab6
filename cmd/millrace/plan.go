package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// plan is what a reset will do.
type plan struct {
	app, cluster, to string

	topics []topicPlan // to delete
	left   []topicPlan // with names of the application, but not known to be its own
	inputs map[string][]int32
	moves  []move
	unset  []string // input topics without an offset to keep

	dir     string // the local state directory, "" if there is none to empty
	dirName string // what it is called on other hosts
	dirSays string
}

type topicPlan struct {
	name       string
	kind       changelog.TopicKind
	partitions int32
	records    int64
	note       string
}

// move is what becomes of the group's offset for a partition. -1 is none.
type move struct {
	topic     string
	partition int32
	from, to  int64
	note      string
}

// resetMark is the metadata of offsets that a reset has set: it is not millrace's commit metadata, and says who it was.
const resetMark = "set by millrace reset"

// plan looks at everything and changes nothing.
func (r *reset) plan(ctx context.Context) (*plan, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	listed, err := patient(ctx, func() (kadm.ListedGroups, error) { return r.adm.ListGroups(ctx) })
	if err != nil {
		return nil, stepFailed("look at the consumer groups", err)
	}
	if err := r.refuseMembers(ctx); err != nil {
		return nil, err
	}
	all, err := r.adm.ListTopics(ctx)
	if err != nil {
		return nil, stepFailed("look at the topics", err)
	}
	committed, err := patient(ctx, func() (kadm.OffsetResponses, error) { return r.adm.FetchOffsets(ctx, r.app) })
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, stepFailed("look at the group's offsets", err)
	}
	p := &plan{app: r.app, cluster: r.cluster, to: r.to, inputs: map[string][]int32{}}
	if err := r.planState(p); err != nil {
		return nil, err
	}
	registry, err := r.registry(ctx, r.app, all)
	if err != nil && !r.unregistered {
		return nil, err
	}
	if err := r.planTopics(ctx, p, all, registry); err != nil {
		return nil, err
	}
	_, grouped := listed[r.app]
	if err := r.refuseStrangers(p, grouped || len(committed) > 0, committed, registry, listed, all); err != nil {
		return nil, err
	}
	for topic := range committed {
		p.addInput(topic, all)
	}
	if registry != nil {
		for _, topic := range registry.Sources() {
			p.addInput(topic, all)
		}
	}
	ends, err := r.measure(ctx, p)
	if err != nil {
		return nil, err
	}
	p.setMoves(ends, func(topic string, partition int32) int64 {
		if o, ok := committed.Lookup(topic, partition); ok {
			return o.At
		}
		return -1
	})
	return p, nil
}

// refuseMembers is the refusal while anybody is in the group.
func (r *reset) refuseMembers(ctx context.Context) error {
	g, err := patient(ctx, func() (kadm.DescribedGroup, error) {
		groups, err := r.adm.DescribeGroups(ctx, r.app)
		g := groups[r.app]
		if err == nil {
			err = g.Err
		}
		return g, err
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return stepFailed("look at the group", err)
	}
	if len(g.Members) == 0 {
		return nil
	}
	var who []string
	for _, m := range g.Members {
		who = append(who, fmt.Sprintf("member %s (client %s, host %s)", m.MemberID, m.ClientID, m.ClientHost))
	}
	return groupActive(r.app, strings.Join(who, ", "), nil)
}

func groupActive(app, who string, err error) *fault.Error {
	return &fault.Error{
		Code: "reset/group-active", Kind: fault.Cluster, Thing: "consumer group", Value: app, Reason: "it has members: " + who, Err: err,
		Remedy: "stop every instance and try again; one that was killed is a member until its session timeout, 10 s unless configured, has passed",
	}
}

// registry reads what an application has registered; nil where it has no tasks topic.
func (r *reset) registry(ctx context.Context, app string, all kadm.TopicDetails) (*changelog.Registry, error) {
	name := changelog.TasksTopicName(app)
	t, ok := all[name]
	if !ok || t.Err != nil {
		return nil, nil
	}
	reader, err := changelog.NewRestorer(changelog.RestorerConfig{Client: r.clientOpts()})
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	g, err := changelog.ReadRegistry(ctx, reader, changelog.Topic{Name: name, ID: t.ID, Partitions: int32(len(t.Partitions))})
	var typed *fault.Error
	if err != nil && !errors.As(err, &typed) {
		return nil, stepFailed("read the registry in "+name, err)
	}
	return g, err
}

// kindOf says what a topic is by its name; ok is false for one that is not named as an internal topic of the application.
func kindOf(app, topic string) (kind changelog.TopicKind, ok bool) {
	if topic == changelog.TasksTopicName(app) {
		return changelog.TasksTopic, true
	}
	rest, found := strings.CutPrefix(topic, app+"-")
	if !found {
		return 0, false
	}
	if store, found := strings.CutSuffix(rest, "-changelog"); found && store != "" {
		return changelog.ChangelogTopic, true
	}
	if through, found := strings.CutSuffix(rest, "-repartition"); found && through != "" {
		return changelog.RepartitionTopic, true
	}
	if global, found := strings.CutSuffix(rest, "-global"); found && global != "" {
		return changelog.ChangelogTopic, true // what tasks have told each other goes with their state
	}
	return 0, false
}

// planTopics finds the topics to delete. Names alone prove nothing: "shop" with a store "eu-counts" and "shop-eu" with a store "counts" have
// the same changelog name. What another application has registered is never touched.
func (r *reset) planTopics(ctx context.Context, p *plan, all kadm.TopicDetails, registry *changelog.Registry) error {
	ours := map[string][16]byte{}
	if registry != nil {
		ours = registry.Topics()
	}
	var theirs map[string]string // by topic, the application
	for _, name := range slices.Sorted(maps.Keys(all)) {
		kind, named := kindOf(r.app, name)
		if !named || all[name].Err != nil {
			continue
		}
		t := topicPlan{name: name, kind: kind, partitions: int32(len(all[name].Partitions))}
		id, registered := ours[name]
		switch {
		case registered && id != [16]byte{} && id != [16]byte(all[name].ID):
			t.note = "created anew since it was registered"
		case !registered:
			if theirs == nil {
				var err error
				if theirs, err = r.neighbours(ctx, all); err != nil {
					return err
				}
			}
			if theirs[name] != "" {
				continue
			}
			t.note = "not in the registry"
			if !r.unregistered {
				t.note = "the registry of " + r.app + " does not list it; -include-unregistered deletes it"
				p.left = append(p.left, t)
				continue
			}
		}
		p.topics = append(p.topics, t)
	}
	// In the order in which they will be deleted.
	slices.SortFunc(p.topics, func(a, b topicPlan) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name)) })
	return nil
}

// neighbours are the topics that applications with names like ours have registered.
func (r *reset) neighbours(ctx context.Context, all kadm.TopicDetails) (map[string]string, error) {
	theirs := map[string]string{}
	for name := range all {
		app, ok := strings.CutSuffix(name, "-tasks")
		if !ok || app == "" || !strings.HasPrefix(app, r.app+"-") && !strings.HasPrefix(r.app, app+"-") {
			continue
		}
		g, err := r.registry(ctx, app, all)
		if err != nil {
			return nil, err // whose the topics are cannot be told
		}
		if g == nil {
			continue
		}
		for topic := range g.Topics() {
			theirs[topic] = app
		}
	}
	return theirs, nil
}

// refuseStrangers refuses an application that is not there, and a group that nothing shows to be millrace's.
func (r *reset) refuseStrangers(p *plan, grouped bool, committed kadm.OffsetResponses, registry *changelog.Registry, listed kadm.ListedGroups, all kadm.TopicDetails) error {
	if !grouped && len(p.topics) == 0 && len(p.left) == 0 && p.dir == "" {
		names := map[string]bool{}
		for name := range listed {
			names[name] = true
		}
		for topic := range all {
			if app, ok := strings.CutSuffix(topic, "-tasks"); ok && app != "" {
				names[app] = true
			}
		}
		remedy := "correct -app or -brokers"
		if near := nearest(r.app, slices.Sorted(maps.Keys(names))); len(near) > 0 {
			remedy = "did you mean " + strings.Join(near, " or ") + "?"
		} else if len(names) > 0 {
			all := slices.Sorted(maps.Keys(names))
			remedy += "; this cluster has " + strings.Join(all[:min(5, len(all))], ", ")
		}
		return &fault.Error{
			Code: "reset/nothing-there", Kind: fault.Config, Thing: "application", Value: r.app,
			Reason: "the cluster has neither a consumer group nor topics of that name", Remedy: remedy,
		}
	}
	known := registry != nil && len(registry.Topics()) > 0 || !grouped || r.unregistered
	committed.Each(func(o kadm.OffsetResponse) {
		_, ours, _ := txn.ParseMeta(o.Metadata)
		known = known || ours || o.Metadata == resetMark
	})
	if !known {
		return &fault.Error{
			Code: "reset/foreign-group", Kind: fault.Config, Thing: "consumer group", Value: r.app,
			Reason: "it exists, but no registry and no offset shows that it is a millrace application's",
			Remedy: "correct -app; if it is the right one and its tasks topic was lost, add -include-unregistered",
		}
	}
	return nil
}

// addInput adds a topic the application reads, unless it is one to delete or is gone.
func (p *plan) addInput(topic string, all kadm.TopicDetails) {
	t, ok := all[topic]
	if !ok || t.Err != nil || p.inputs[topic] != nil || slices.ContainsFunc(p.topics, func(d topicPlan) bool { return d.name == topic }) {
		return
	}
	for n := range int32(len(t.Partitions)) {
		p.inputs[topic] = append(p.inputs[topic], n)
	}
}

// measure lists where the logs begin and end, and fills in the record counts.
func (r *reset) measure(ctx context.Context, p *plan) (map[changelog.TopicPartition]changelog.Ends, error) {
	var logs []changelog.TopicPartition
	for topic, partitions := range p.inputs {
		for _, n := range partitions {
			logs = append(logs, changelog.TopicPartition{Topic: topic, Partition: n})
		}
	}
	for _, t := range p.topics {
		for n := range t.partitions {
			logs = append(logs, changelog.TopicPartition{Topic: t.name, Partition: n})
		}
	}
	ends, err := changelog.ListEnds(ctx, r.cl, logs)
	if err != nil {
		return nil, stepFailed("look at the ends of topics", err)
	}
	for i := range p.topics {
		t := &p.topics[i]
		for n := range t.partitions {
			e := ends[changelog.TopicPartition{Topic: t.name, Partition: n}]
			t.records += e.End - e.Start
		}
	}
	return ends, nil
}

// setMoves says what becomes of the offset of every input partition.
func (p *plan) setMoves(ends map[changelog.TopicPartition]changelog.Ends, committed func(string, int32) int64) {
	p.moves, p.unset = nil, nil
	for _, topic := range slices.Sorted(maps.Keys(p.inputs)) {
		for _, n := range p.inputs[topic] {
			e := ends[changelog.TopicPartition{Topic: topic, Partition: n}]
			m := move{topic: topic, partition: n, from: committed(topic, n), to: -1}
			switch p.to {
			case toEarliest:
				m.to = e.Start
			case toLatest:
				m.to = e.End
			default:
				m.to = m.from
			}
			switch {
			case m.to < 0:
				if !slices.Contains(p.unset, topic) {
					p.unset = append(p.unset, topic)
				}
				m.note = "the source's start position decides"
			case m.to < e.Start || m.to > e.End:
				m.note = fmt.Sprintf("outside of what the topic holds, %d to %d", e.Start, e.End)
			case m.from >= 0 && m.from > m.to:
				m.note = fmt.Sprintf("%d again", m.from-m.to)
			case m.from >= 0 && m.from < m.to && p.to == toEarliest:
				m.note = fmt.Sprintf("%d no longer there", m.to-m.from)
			case m.from >= 0 && m.from < m.to:
				m.note = fmt.Sprintf("%d left out", m.to-m.from)
			}
			p.moves = append(p.moves, m)
		}
	}
}

// planState looks at the local state directory. One that is not there is said, not refused: it may be on another host.
func (r *reset) planState(p *plan) error {
	path, err := changelog.StateDirPath(r.state, r.app)
	if err != nil {
		return err
	}
	p.dirName = filepath.Base(path)
	if r.state == "" {
		return nil
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		p.dirSays = path + " is not there"
		return nil
	}
	var bytes, files int64
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			files, bytes = files+1, bytes+info.Size()
		}
		return err
	})
	p.dir, p.dirSays = path, fmt.Sprintf("%s (%d files, %d bytes)", path, files, bytes)
	if err != nil { // an instance that runs removes files; the lock will tell
		p.dirSays = path
	}
	return nil
}

var kindNames = map[changelog.TopicKind]string{
	changelog.ChangelogTopic: "changelog", changelog.RepartitionTopic: "repartition", changelog.TasksTopic: "tasks",
}

func (p *plan) print(w io.Writer) {
	fmt.Fprintf(w, "Start application %q over, on cluster %s.\n\n", p.app, p.cluster)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(p.topics) > 0 {
		fmt.Fprintln(t, "DELETE TOPIC\tKIND\tPARTITIONS\tRECORDS AT MOST\tNOTE")
		for _, d := range p.topics {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", d.name, kindNames[d.kind], d.partitions, d.records, d.note)
		}
	} else {
		fmt.Fprintln(t, "No topics to delete.")
	}
	_ = t.Flush() // the terminal's errors are nobody's to handle
	for _, d := range p.left {
		fmt.Fprintf(w, "Left: %s (%s)\n", d.name, d.note)
	}
	fmt.Fprintln(w)
	if len(p.moves) > 0 {
		fmt.Fprintln(t, "SET OFFSET OF\tPARTITION\tFROM\tTO\tRECORDS")
		for _, m := range p.moves {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", m.topic, m.partition, offsetText(m.from), offsetText(m.to), m.note)
		}
	} else {
		fmt.Fprintln(t, "No offsets to set.")
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	switch {
	case p.dir != "":
		fmt.Fprintln(w, "EMPTY STATE DIRECTORY  "+p.dirSays)
	case p.dirSays != "":
		fmt.Fprintln(w, "No state directory to empty: "+p.dirSays+".")
	default:
		fmt.Fprintln(w, "No state directory is emptied: -state names one.")
	}
}

func offsetText(o int64) string {
	if o < 0 {
		return "-"
	}
	return strconv.FormatInt(o, 10)
}
