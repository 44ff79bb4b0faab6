package topology

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
)

// Format is a way to draw a topology.
type Format string

// The formats.
const (
	Text    Format = "text"    // for a terminal
	Mermaid Format = "mermaid" // a flowchart that documentation sites render
	JSON    Format = "json"    // for programs
)

// Describe draws the topology. The same topology gives the same bytes in every process.
func (t *Topology) Describe(w io.Writer, f Format) error {
	var out string
	switch f {
	case Text:
		out = t.text()
	case Mermaid:
		out = t.mermaid()
	case JSON:
		var err error
		if out, err = t.json(); err != nil {
			return err
		}
	default:
		return &fault.Error{Code: "topology/format", Kind: fault.Config, Thing: "format", Value: string(f), Reason: "is not known",
			Remedy: "use text, mermaid or json"}
	}
	_, err := io.WriteString(w, out)
	return err
}

// String is the text form.
func (t *Topology) String() string { return t.text() }

func (t *Topology) text() string {
	var b strings.Builder
	for i, s := range t.subs {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "subtopology %s\n", s.Name)
		for _, st := range s.Stores {
			fmt.Fprintf(&b, "  store %s: %s %s -> %s\n", st.Name(), st.Kind(), st.KeyID(), st.ValueID())
		}
		for j, n := range s.Nodes {
			fmt.Fprintf(&b, "  %s: %s", n.Name, n.Kind)
			if u := s.nodes[j].topic; u != nil {
				arrow := "reads"
				if n.Kind == kindSink {
					arrow = "writes"
				}
				fmt.Fprintf(&b, " %s %s", arrow, topicText(u.ref))
			}
			if c := s.clockOf(j); c != "" {
				fmt.Fprintf(&b, " (clock: %s)", c)
			}
			if len(n.Stores) > 0 {
				fmt.Fprintf(&b, " [%s]", strings.Join(n.Stores, ", "))
			}
			if p := n.Policy.String(); p != "inherit" {
				fmt.Fprintf(&b, " (on error: %s)", p)
			}
			b.WriteString("\n")
			for _, c := range n.Children {
				fmt.Fprintf(&b, "    -> %s\n", s.Nodes[c].Name)
			}
		}
	}
	return b.String()
}

// clockOf says what clock a source has, "" where it is stream time.
func (s *Subtopology) clockOf(node int) string {
	k := s.source[node]
	switch {
	case k < 0:
		return ""
	case s.Sources[k].InBand:
		return "from the tasks of " + s.Sources[k].Writer
	case s.Sources[k].Watermark != nil:
		return s.nodes[node].topic.clock.String()
	}
	return ""
}

func topicText(r TopicRef) string {
	if r.Partitions > 0 {
		return fmt.Sprintf("%s (%d partitions)", r, r.Partitions)
	}
	return r.String()
}

// mermaid draws a flowchart: boxes for nodes, rounded boxes for topics, cylinders for stores.
func (t *Topology) mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	topics := map[string]string{} // by text
	topic := func(r TopicRef) string {
		id, ok := topics[r.String()]
		if !ok {
			id = fmt.Sprintf("t%d", len(topics))
			topics[r.String()] = id
			fmt.Fprintf(&b, "  %s([\"%s\"])\n", id, topicText(r))
		}
		return id
	}
	for _, s := range t.subs { // topics stand outside the boxes of subtopologies
		for _, src := range s.Sources {
			topic(src.Topic)
		}
		for _, sink := range s.Sinks {
			topic(sink.Topic)
		}
	}
	for i, s := range t.subs {
		fmt.Fprintf(&b, "  subgraph s%d[\"%s\"]\n", i, s.Name)
		for j, st := range s.Stores {
			fmt.Fprintf(&b, "    s%dd%d[(\"%s\")]\n", i, j, st.Name())
		}
		for j, n := range s.Nodes {
			fmt.Fprintf(&b, "    s%dn%d[\"%s\"]\n", i, j, n.Name)
		}
		b.WriteString("  end\n")
		for j, n := range s.Nodes {
			for _, c := range n.Children {
				fmt.Fprintf(&b, "  s%dn%d --> s%dn%d\n", i, j, i, c)
			}
			for _, name := range n.Stores {
				for k, st := range s.Stores {
					if st.Name() == name {
						fmt.Fprintf(&b, "  s%dn%d --- s%dd%d\n", i, j, i, k)
					}
				}
			}
			if u := s.nodes[j].topic; u != nil {
				if n.Kind == kindSource {
					fmt.Fprintf(&b, "  %s --> s%dn%d\n", topic(u.ref), i, j)
				} else {
					fmt.Fprintf(&b, "  s%dn%d --> %s\n", i, j, topic(u.ref))
				}
			}
		}
	}
	return b.String()
}

// The JSON form. Fields may be added, and are never renamed or removed.
type (
	jsonTopology struct {
		Fingerprint   string            `json:"fingerprint"`
		Subtopologies []jsonSubtopology `json:"subtopologies"`
	}
	jsonSubtopology struct {
		Name   string      `json:"name"`
		Stores []jsonStore `json:"stores"`
		Nodes  []jsonNode  `json:"nodes"`
	}
	jsonStore struct {
		Name  string `json:"name"`
		Kind  string `json:"kind"`
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	jsonNode struct {
		Name     string     `json:"name"`
		Kind     string     `json:"kind"`
		Topic    *jsonTopic `json:"topic,omitempty"`
		Stores   []string   `json:"stores,omitempty"`
		OnError  string     `json:"on_error,omitempty"`
		Children []string   `json:"children,omitempty"`
		At       string     `json:"at"`
	}
	jsonTopic struct {
		Name       string `json:"name"`
		Through    bool   `json:"through,omitempty"`
		Partitions int32  `json:"partitions,omitempty"`
		Clock      string `json:"clock,omitempty"`
		Key        string `json:"key"`
		Value      string `json:"value"`
	}
)

func (t *Topology) json() (string, error) {
	doc := jsonTopology{Fingerprint: fmt.Sprintf("%x", t.fingerprint), Subtopologies: []jsonSubtopology{}}
	for _, s := range t.subs {
		sub := jsonSubtopology{Name: s.Name, Stores: []jsonStore{}}
		for _, st := range s.Stores {
			sub.Stores = append(sub.Stores, jsonStore{st.Name(), st.Kind().String(), st.KeyID(), st.ValueID()})
		}
		for i, n := range s.Nodes {
			node := jsonNode{Name: n.Name, Kind: n.Kind, Stores: n.Stores, At: s.nodes[i].at.String()}
			if p := n.Policy.String(); p != "inherit" {
				node.OnError = p
			}
			if u := s.nodes[i].topic; u != nil {
				node.Topic = &jsonTopic{u.ref.Name, u.ref.Through, u.ref.Partitions, s.clockOf(i), u.keyID, u.valueID}
			}
			for _, c := range n.Children {
				node.Children = append(node.Children, s.Nodes[c].Name)
			}
			sub.Nodes = append(sub.Nodes, node)
		}
		doc.Subtopologies = append(doc.Subtopologies, sub)
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return string(b) + "\n", err
}
