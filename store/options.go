package store

import "github.com/millrace-io/millrace/ttl"

// Option is a setting of a store's declaration: the variadic last parameter of KeyValue, Value, List, Map, Reducing and
// Aggregating.
type Option func(*options)

// options are what every declaration embeds.
type options struct {
	ttl    ttl.Policy
	width  int    // of every key of a keyed store, 0 when they differ
	codecs codecs // nil where values have one form and codecs no limits
	lacks  string // a function that the declaration needs and has not
}

func makeOptions(opts []Option) (o options) {
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// settings makes every declaration a Spec: only this package has it.
func (o options) settings() options { return o }

// WithTTL gives the entries of a store a time to live: each value, list element, map entry and accumulator its own. It can be given,
// changed and taken back between two starts; entries from before it was given live for as long as it says, counted from
// the first start with it. Build refuses a policy that is not valid.
func WithTTL(p ttl.Policy) Option { return func(o *options) { o.ttl = p } }

// Validate returns what is wrong with the options of a declaration, or nil.
func (o options) Validate() error { return o.ttl.Validate() }
