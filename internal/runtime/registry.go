package runtime

import (
	"context"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/changelog"
)

// register compares our internal topics with what the application has written down about itself, and lets the
// subtopologies keep the names they had: a store added to a subtopology must not rename its tasks.
func (r *Runtime) register(ctx context.Context) error {
	var topics []changelog.Topic
	for _, s := range r.specs {
		if s.Kind != changelog.UserTopic {
			topics = append(topics, r.found[s.Name])
		}
	}
	slices.SortFunc(topics, func(a, b changelog.Topic) int { return strings.Compare(a.Name, b.Name) })
	var members []changelog.Members
	for _, s := range r.plan.subs {
		m := changelog.Members{Name: s.name, Sources: s.sources, Specs: s.Stores}
		for _, st := range s.Stores {
			m.Stores = append(m.Stores, st.Name())
		}
		members = append(members, m)
	}
	named, err := changelog.Register(ctx, r.restorer, r.found[r.plan.tasksTopic], topics, members)
	if err != nil {
		return err
	}
	for i, n := range named {
		r.plan.subs[i].name, r.plan.subs[i].absorbs = n.Name, n.Absorbs
	}
	return nil
}
