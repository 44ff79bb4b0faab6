package runtime

import (
	"cmp"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// plan is the topology laid over the cluster's topics: what tasks there are and which partitions each reads and writes.
// It is made at start and then only read.
type plan struct {
	app        string
	tasksTopic string
	subs       []*subPlan
	byTopic    map[string]*subPlan // the subtopology that reads a topic
	topics     map[string]topicInfo
}

type topicInfo struct {
	id         [16]byte
	partitions int32
	maxBytes   int
}

// topic is a topic as it was found at start.
func (p *plan) topic(name string) changelog.Topic {
	t := p.topics[name]
	return changelog.Topic{Name: name, ID: t.id, Partitions: t.partitions}
}

// subPlan is one subtopology.
type subPlan struct {
	*topology.Subtopology
	name       string // the identity recorded in the registry
	tasks      int32
	stateful   bool
	records    bool              // its tasks have records in the tasks topic: they have state, or remember their clock, or what they try again
	sources    []string          // topics that the group reads
	reads      []int             // of each of them, the source it is
	broadcasts []broadcastInput  // topics of which every task reads all
	sinks      []string          // topic of each sink
	changelogs map[string]string // store -> topic
	absorbs    []string          // names of subtopologies that have become part of this one
}

func (p *plan) partitions(topic string) int32 { return p.topics[topic].partitions }
func (p *plan) topicID(topic string) [16]byte { return p.topics[topic].id }

// batchBytes is the greatest batch to send to a topic: the brokers' limit is one of batches, and a client that does not know
// it gathers small records into a batch that is refused.
func (p *plan) batchBytes(topic string) int32 {
	const usual, least = 1_000_012, 512
	if n := p.topics[topic].maxBytes; n > 0 {
		return int32(max(least, min(usual, n)))
	}
	return usual
}

func (p *plan) sub(name string) *subPlan {
	for _, s := range p.subs {
		if s.name == name {
			return s
		}
	}
	return nil
}

// consumed lists every topic the group reads.
func (p *plan) consumed() []string {
	var out []string
	for _, s := range p.subs {
		out = append(out, s.sources...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// inputs are the partitions a task reads, in the order of the subtopology's sources.
func (p *plan) inputs(s *subPlan, partition int32) []task.Input {
	var in []task.Input
	for i, topic := range s.sources {
		if partition < p.partitions(topic) {
			in = append(in, task.Input{Source: s.reads[i], Topic: topic, Partition: partition})
		}
	}
	return in
}

// taskOf is the task that reads a partition.
func (p *plan) taskOf(topic string, partition int32) (*subPlan, processor.TaskID, bool) {
	s := p.byTopic[topic]
	if s == nil {
		return nil, processor.TaskID{}, false
	}
	return s, processor.TaskID{Subtopology: s.name, Partition: partition}, true
}

// tasksOf are the tasks that read the given partitions, in order.
func (p *plan) tasksOf(partitions map[string][]int32) []processor.TaskID {
	var ids []processor.TaskID
	for topic, ps := range partitions {
		for _, n := range ps {
			if _, id, ok := p.taskOf(topic, n); ok {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, compareTasks)
	return slices.Compact(ids)
}

func compareTasks(a, b processor.TaskID) int {
	return cmp.Or(strings.Compare(a.Subtopology, b.Subtopology), cmp.Compare(a.Partition, b.Partition))
}
