package topology_test

import (
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Codecs that cannot be used where they are, are told by Build, with the place and the reason.
func TestCodecsInTheWrongPlace(t *testing.T) {
	evolved := serde.Evolve(2, serde.String(), serde.From(1, serde.String(), func(s string) (string, error) { return s, nil }))
	odd := serde.Evolve(0, serde.String())
	text := serde.String()
	for _, c := range []struct {
		name  string
		topic topology.Topic[string, string]
		store store.Spec
		says  []string // nil: none
	}{
		{"value of a store", topology.NewTopic("in", text, text), store.KeyValue("s", text, evolved), nil},
		{"key of a store", topology.NewTopic("in", text, text), store.KeyValue("s", evolved, text), []string{`serde/place: store "s", key of a store`, "places_test.go:"}},
		{"value of a topic", topology.NewTopic("in", text, evolved), store.KeyValue("s", text, text), []string{`serde/place: topic "in", value of a topic`, "places_test.go:"}},
		{"key of a topic", topology.NewTopic("in", evolved, text), store.KeyValue("s", text, text), []string{`serde/place: topic "in", key of a topic`}},
		{"misdeclared", topology.NewTopic("in", text, text), store.KeyValue("s", text, odd), []string{"serde/evolution", `store "s"`, "versions begin with 1"}},
	} {
		b := topology.NewBuilder()
		src := topology.AddSource(b, "", c.topic)
		topology.AddProcessor("p", func() processor.Processor[string, string, string, string] {
			return processor.Func[string, string, string, string](func(processor.Context[string, string], processor.Record[string, string]) error { return nil })
		}, []store.Spec{c.store}, src)
		_, err := b.Build()
		if (err == nil) != (c.says == nil) || err != nil && fault.ExitCode(err) != 2 {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v does not say %s", c.name, err, s)
			}
		}
	}
}
