package store

// Option is a setting of a store's declaration: the variadic last parameter of KeyValue, Value, List, Map, Reducing and
// Aggregating.
type Option func(*options)

// options are what every declaration embeds.
type options struct {
	width int // of every key of a keyed store, 0 when they differ
}

func makeOptions(opts []Option) (o options) {
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// settings makes every declaration a Spec: only this package has it.
func (o options) settings() options { return o }
