package assign

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/processor"
)

// Protocol is the name under which members agree to balance by this package.
const Protocol = "millrace"

// Balancer is Assign behind kgo's group protocol: give it to kgo.Balancers as the only one. Its functions are called on the
// client's group goroutine, between joining and syncing: they must not wait for the group or for a commit.
type Balancer struct {
	// Local describes this member at every join. Subtopologies come from Catalog, Known, Promised and what is owned
	// from the group: they need not be set; positions of owned tasks are left out. What it returns may change only when
	// something did that is worth a rebalance, since the brokers take other bytes for another member.
	Local func() Member
	// Catalog is what this member's topology consists of. It must not change while the member lives, except for Tasks.
	Catalog func() []SubtopologySpec
	// Observed is told what the leader says, on every member after every rebalance, before partitions are revoked or
	// assigned. May be nil.
	Observed func(Echo)
	// Planned is told the plan, on the leader, before anybody knows it. May be nil.
	Planned func(Plan)

	mu       sync.Mutex
	known    []Version          // heard of from leaders
	promised []processor.TaskID // by the leader, with the last assignment
}

var _ kgo.GroupBalancer = (*Balancer)(nil)

// ProtocolName is Protocol.
func (b *Balancer) ProtocolName() string { return Protocol }

// IsCooperative is true: members keep what they do not have to give away.
func (b *Balancer) IsCooperative() bool { return true }

// JoinGroupMetadata is what this member tells the leader. Every source of the catalog is declared, whether or not the client has
// learned of it yet: what is told does not depend on the order in which topics are found.
func (b *Balancer) JoinGroupMetadata(interests []string, current map[string][]int32, generation int32) []byte {
	m := b.Local()
	m.Subtopologies = b.Catalog()
	b.mu.Lock()
	m.Known, m.Promised = slices.Clone(b.known), b.promised
	b.mu.Unlock()

	owned := map[processor.TaskID]bool{}
	for _, t := range TasksOf(m.Subtopologies, current) {
		owned[t] = true
	}
	m.Positions = slices.DeleteFunc(slices.Clone(m.Positions), func(p Position) bool { return owned[p.Task] })

	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Generation = generation
	meta.Topics = slices.Clone(interests)
	for _, s := range m.Subtopologies {
		meta.Topics = append(meta.Topics, s.Sources...)
	}
	slices.Sort(meta.Topics)
	meta.Topics = slices.Compact(meta.Topics)
	for _, topic := range slices.Sorted(maps.Keys(current)) {
		o := kmsg.NewConsumerMemberMetadataOwnedPartition()
		o.Topic = topic
		o.Partitions = slices.Sorted(slices.Values(current[topic]))
		meta.OwnedPartitions = append(meta.OwnedPartitions, o)
	}
	meta.UserData = appendMember(nil, &m)
	return meta.AppendTo(nil)
}

// ParseSyncAssignment reads this member's part of the plan and hands the leader's words to Observed.
func (b *Balancer) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(assignment); err != nil {
		return nil, fmt.Errorf("assign: the leader's assignment: %w", err)
	}
	partitions := make(map[string][]int32, len(a.Topics))
	for _, t := range a.Topics {
		partitions[t.Topic] = t.Partitions
	}
	echo, err := parseEcho(a.UserData)
	if err != nil {
		// The assignment stands without the words that come with it. An error here would make the client join again and
		// again for as long as the leader lives.
		echo = Echo{Err: err}
	}
	b.mu.Lock()
	b.known = mergeVersions(append(b.known, echo.Versions...))
	b.known = b.known[:min(len(b.known), maxVersions)]
	b.promised = echo.Promised
	b.mu.Unlock()
	if b.Observed != nil {
		b.Observed(echo)
	}
	return partitions, nil
}

// MemberBalancer reads what the members told. Only the leader is asked.
func (b *Balancer) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	lead := &leader{planned: b.Planned}
	topics := map[string]struct{}{}
	for i := range members {
		j := Joined{ID: members[i].MemberID}
		var meta kmsg.ConsumerMemberMetadata
		meta.Default()
		if j.Err = meta.ReadFrom(members[i].ProtocolMetadata); j.Err == nil {
			j.Member, j.Err = parseMember(meta.UserData)
		}
		j.Generation = meta.Generation
		for _, o := range meta.OwnedPartitions {
			for _, p := range o.Partitions {
				j.Claims = append(j.Claims, Partition{o.Topic, p})
			}
		}
		for _, topic := range meta.Topics {
			topics[topic] = struct{}{}
		}
		for _, s := range j.Subtopologies {
			for _, topic := range s.Sources {
				topics[topic] = struct{}{}
			}
		}
		lead.in.Members = append(lead.in.Members, j)
	}
	return lead, topics, nil
}

// leader is one balancing of the group.
type leader struct {
	in      Input
	planned func(Plan)
}

// SetBalanceInfo takes the generation being balanced into.
func (l *leader) SetBalanceInfo(info kgo.BalanceInfo) { l.in.Generation = info.Generation }

// Balance makes the plan.
func (l *leader) Balance(topics map[string]int32) kgo.IntoSyncAssignment {
	l.in.Topics = topics
	p := Assign(l.in)
	if l.planned != nil {
		l.planned(p)
	}
	return &syncPlan{p}
}

type syncPlan struct{ Plan }

// IntoSyncAssignment writes the plan down.
func (p *syncPlan) IntoSyncAssignment() []kmsg.SyncGroupRequestGroupAssignment {
	echo := p.Echo()
	words := appendWords(nil, &echo)
	promised := map[string][]processor.TaskID{}
	for _, w := range p.Withheld {
		promised[w.To] = append(promised[w.To], w.Task)
	}
	all := make([]kmsg.SyncGroupRequestGroupAssignment, 0, len(p.Members))
	for _, m := range p.Members {
		a := kmsg.NewConsumerMemberAssignment()
		for _, tp := range m.Partitions { // in order of topics
			if n := len(a.Topics); n == 0 || a.Topics[n-1].Topic != tp.Topic {
				t := kmsg.NewConsumerMemberAssignmentTopic()
				t.Topic = tp.Topic
				a.Topics = append(a.Topics, t)
			}
			last := &a.Topics[len(a.Topics)-1]
			last.Partitions = append(last.Partitions, tp.Partition)
		}
		a.UserData = appendTasks(slices.Clone(words), promised[m.Member])
		sync := kmsg.NewSyncGroupRequestGroupAssignment()
		sync.MemberID = m.Member
		sync.MemberAssignment = a.AppendTo(nil)
		all = append(all, sync)
	}
	return all
}
