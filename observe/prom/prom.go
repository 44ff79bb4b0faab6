// Package prom exports what an application does to Prometheus. docs/metrics.md lists the metrics.
//
// Series are few whatever the number of tasks: those of tasks are summed up by subtopology, and those of stores by
// subtopology and store, unless PerTask is asked for.
package prom

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-io/millrace/observe"
)

// Source is an application: *millrace.App is one.
type Source interface {
	Snapshot() observe.Snapshot
}

// Collector is a prometheus.Collector: register it where the program's other metrics are. Each collection takes one Snapshot of
// each source; between collections it does nothing.
type Collector struct {
	sources []Source
	perTask bool
	descs   []*prometheus.Desc // by family
}

var _ prometheus.Collector = (*Collector)(nil)

// New makes a Collector of applications with different ids: the id is the label "app" of every series. Two instances of one
// application in a process need a registry each, or prometheus.WrapRegistererWith and a label that tells them apart.
func New(sources ...Source) *Collector { return newCollector(sources, false) }

// PerTask is a Collector of the same applications with series for every task: the label "task" is beside each "subtopology".
// Counters of a task are there while this instance has it. Series grow with the number of tasks: about 30 each, and 8 more per
// store.
func (c *Collector) PerTask() *Collector { return newCollector(c.sources, true) }

func newCollector(sources []Source, perTask bool) *Collector {
	c := &Collector{sources: slices.Clone(sources), perTask: perTask}
	for i := range families {
		f := &families[i]
		c.descs = append(c.descs, prometheus.NewDesc(f.Name, f.Help, c.labels(f), nil))
	}
	return c
}

// labels are the labels of a family, in the order in which values are given.
func (c *Collector) labels(f *family) []string {
	labels := []string{"app"}
	if c.perTask && (f.scope == ofTask || f.scope == ofStore) {
		labels = append(labels, "task")
	}
	return append(labels, f.Labels...)
}

// Metrics lists the families that a Collector exports, in the order of docs/metrics.md.
func Metrics() []Metric {
	all := make([]Metric, len(families))
	for i := range families {
		all[i] = families[i].Metric
		all[i].Labels = slices.Clone(all[i].Labels)
	}
	return all
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, source := range c.sources {
		s := source.Snapshot()
		units := c.units(&s)
		for i := range families {
			(&export{ch: ch, family: &families[i], desc: c.descs[i], labels: []string{s.App}}).of(&s, units, c.perTask)
		}
	}
}

// units are what figures of tasks are exported for.
func (c *Collector) units(s *observe.Snapshot) []unit {
	var units []unit
	if c.perTask {
		for i := range s.Tasks {
			t := &s.Tasks[i]
			units = append(units, unit{t.Subtopology, t.Task, &t.Counters, t.Stores, []*observe.Task{t}})
		}
		return units
	}
	for i := range s.Subtopologies {
		sub := &s.Subtopologies[i]
		u := unit{subtopology: sub.Name, counters: &sub.Counters, stores: sub.Stores}
		for j := range s.Tasks {
			if s.Tasks[j].Subtopology == sub.Name {
				u.tasks = append(u.tasks, &s.Tasks[j])
			}
		}
		units = append(units, u)
	}
	return units
}

// export sends the series of one family.
type export struct {
	ch     chan<- prometheus.Metric
	family *family
	desc   *prometheus.Desc
	labels []string
}

func (e *export) of(s *observe.Snapshot, units []unit, perTask bool) {
	f := e.family
	switch f.scope {
	case ofApp:
		if f.epochs == nil {
			f.app(s, e.value)
			return
		}
		var all observe.Histogram
		for i := range s.Workers {
			addHistogram(&all, f.epochs(&s.Workers[i]))
		}
		e.histogram(&all)
	case ofTask, ofStore:
		for i := range units {
			u := &units[i]
			in := *e
			if perTask {
				in.labels = append(in.labels[:1:1], u.task, u.subtopology)
			} else {
				in.labels = append(in.labels[:1:1], u.subtopology)
			}
			if f.scope == ofTask {
				f.task(u, in.value)
				continue
			}
			for j := range u.stores {
				f.store(&u.stores[j], func(v float64, more ...string) { in.value(v, append([]string{u.stores[j].Name}, more...)...) })
			}
		}
	case ofClient:
		for i := range s.Clients {
			in := *e
			in.labels = append(in.labels[:1:1], s.Clients[i].Role)
			if f.requests != nil {
				in.histogram(f.requests(&s.Clients[i]))
				continue
			}
			f.kafka(&s.Clients[i], in.value)
		}
	}
}

func (e *export) value(v float64, more ...string) {
	kind := prometheus.GaugeValue
	if e.family.Type == counter {
		kind = prometheus.CounterValue
	}
	m, err := prometheus.NewConstMetric(e.desc, kind, v, append(slices.Clone(e.labels), more...)...)
	if err != nil { // a name that is no UTF-8, say
		m = prometheus.NewInvalidMetric(e.desc, err)
	}
	e.ch <- m
}

func (e *export) histogram(h *observe.Histogram) {
	if len(h.Counts) == 0 {
		return // nothing has begun yet
	}
	buckets := make(map[float64]uint64, len(h.Bounds))
	var n uint64
	for i, bound := range h.Bounds {
		n += uint64(h.Counts[i])
		buckets[bound] = n
	}
	m, err := prometheus.NewConstHistogram(e.desc, uint64(h.Count()), h.Sum, buckets, e.labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(e.desc, err)
	}
	e.ch <- m
}

// addHistogram adds a histogram with the same bounds.
func addHistogram(to, from *observe.Histogram) {
	if to.Counts == nil {
		to.Bounds, to.Counts = from.Bounds, make([]int64, len(from.Counts))
	}
	for i := range from.Counts {
		to.Counts[i] += from.Counts[i]
	}
	to.Sum += from.Sum
}
