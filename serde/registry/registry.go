// Package registry talks to a Confluent schema registry for the codecs that write a schema's id in front of each value:
// serde/avro and serde/protobuf. It finds schemas by id, once, and registers those of writers when a codec is made.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/singleflight"

	"github.com/millrace-io/millrace/internal/fault"
)

const (
	defaultTimeout = 5 * time.Second
	defaultCache   = 1000
	retryFirst     = 50 * time.Millisecond
	retryMax       = time.Second
	// forgetAfter is the part of the timeout for which a look-up that failed is not tried again: the records that need it fail
	// at once.
	forgetAfter = 5
	// absentTries is how often an id is asked for that is not there: the registry that answers may be a follower.
	absentTries   = 3
	referencesMax = 100 // schemas that one schema refers to, over all steps
	messageBytes  = 200 // of what a registry said that an error repeats
)

// Registry is a schema registry as codecs see it, with what was found kept in memory. It may be shared by all codecs of a
// program, and by all goroutines.
type Registry struct {
	ctx        context.Context
	client     *sr.Client
	timeout    time.Duration
	cache      int
	lookUpOnly bool

	asking singleflight.Group
	mu     sync.Mutex
	byID   map[int]found
}

// found is what was learnt about an id.
type found struct {
	source Source
	err    error
	until  time.Time // an error holds until then
}

// Source is the text of a schema, and the texts of those it refers to, each before whoever refers to it.
type Source struct {
	ID         int
	Type       sr.SchemaType
	Text       string
	References []Reference
}

// Reference is a schema that another one refers to.
type Reference struct {
	Name string // what it is called there
	Text string
}

// Option is a setting of a Registry.
type Option func(*Registry)

// LookUpOnly never registers a schema: a codec whose schema is not registered under its subject is refused when it is made.
func LookUpOnly() Option { return func(r *Registry) { r.lookUpOnly = true } }

// Timeout bounds each look-up, with its retries; 5 s when it is not given. A record whose schema is not known yet waits that
// long at most.
func Timeout(d time.Duration) Option { return func(r *Registry) { r.timeout = d } }

// CacheSize is how many schemas are kept; 1000 when it is not given. Beyond that some are forgotten and asked for again.
func CacheSize(n int) Option { return func(r *Registry) { r.cache = n } }

// New returns a Registry that asks by client. Nothing is asked yet. When ctx is done every look-up fails at once.
func New(ctx context.Context, client *sr.Client, opts ...Option) *Registry {
	r := &Registry{ctx: ctx, client: client, timeout: defaultTimeout, cache: defaultCache, byID: map[int]found{}}
	for _, o := range opts {
		o(r)
	}
	if r.timeout <= 0 {
		r.timeout = defaultTimeout
	}
	r.cache = max(1, r.cache)
	return r
}

// Schema finds the schema of an id. What was found is kept; a failure is remembered for a fifth of the timeout. An id that is not there is
// an error of the record, a registry that cannot be asked one of the cluster.
func (r *Registry) Schema(id int) (Source, error) {
	r.mu.Lock()
	f, ok := r.byID[id]
	r.mu.Unlock()
	if ok && (f.err == nil || time.Now().Before(f.until)) {
		return f.source, f.err
	}
	v, err, _ := r.asking.Do(strconv.Itoa(id), func() (any, error) {
		source, err := r.fetch(id)
		r.keep(id, found{source: source, err: err, until: time.Now().Add(r.timeout / forgetAfter)})
		return source, err
	})
	return v.(Source), err
}

func (r *Registry) keep(id int, f found) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old := range r.byID {
		if len(r.byID) < r.cache {
			break
		}
		delete(r.byID, old) // any of them: a program that needs so many asks again
	}
	r.byID[id] = f
}

func (r *Registry) fetch(id int) (Source, error) {
	thing := "schema id"
	var s sr.Schema
	err := r.ask(thing, strconv.Itoa(id), absentTries, func(ctx context.Context) (err error) {
		s, err = r.client.SchemaByID(ctx, id)
		return err
	})
	if err != nil {
		return Source{}, err
	}
	return r.source(id, s)
}

// source completes a schema with what it refers to.
func (r *Registry) source(id int, s sr.Schema) (Source, error) {
	out := Source{ID: id, Type: s.Type, Text: s.Schema}
	err := r.references(s, map[string]bool{}, &out.References)
	return out, err
}

func (r *Registry) references(s sr.Schema, seen map[string]bool, out *[]Reference) error {
	for _, ref := range s.References {
		key := ref.Subject + " version " + strconv.Itoa(ref.Version)
		if seen[key] {
			continue
		}
		seen[key] = true
		if len(seen) > referencesMax {
			return &fault.Error{Code: "schema/references", Kind: fault.Config, Thing: "schema", Value: key,
				Reason: fmt.Sprintf("it is one of more than %d that a schema refers to", referencesMax), Remedy: "use schemas with fewer references"}
		}
		var found sr.SubjectSchema
		err := r.ask("referenced schema", key, absentTries, func(ctx context.Context) (err error) {
			found, err = r.client.SchemaByVersion(ctx, ref.Subject, ref.Version)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.references(found.Schema, seen, out); err != nil {
			return err
		}
		*out = append(*out, Reference{Name: ref.Name, Text: found.Schema.Schema})
	}
	return nil
}

// Version is a schema that a subject has, or had.
type Version struct {
	Number int
	Source
}

// Versions lists what is registered under a subject, oldest first; nothing when the subject is not there. The schemas are kept
// as if they had been looked up.
func (r *Registry) Versions(subject string) ([]Version, error) {
	if subject == "" {
		return nil, &fault.Error{Code: "schema/subject", Kind: fault.Config, Thing: "subject", Reason: "is empty",
			Remedy: "name the subject: by custom it is the topic's name and -value or -key"}
	}
	var all []sr.SubjectSchema
	err := r.ask("subject", subject, 1, func(ctx context.Context) (err error) {
		all, err = r.client.Schemas(ctx, subject)
		return err
	})
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	versions := make([]Version, len(all))
	for i, s := range all {
		source, err := r.source(s.ID, s.Schema)
		if err != nil {
			return nil, err
		}
		versions[i] = Version{s.Version, source}
		r.keep(s.ID, found{source: source})
	}
	return versions, nil
}

// ID returns the id that a schema has under a subject: it is registered if it is not there, or, with LookUpOnly, refused.
func (r *Registry) ID(subject string, schema sr.Schema) (int, error) {
	var got sr.SubjectSchema
	err := r.ask("subject", subject, 1, func(ctx context.Context) (err error) {
		ctx = sr.WithParams(ctx, sr.Normalize)
		if r.lookUpOnly {
			got, err = r.client.LookupSchema(ctx, subject, schema)
		} else {
			got.ID, err = r.client.RegisterSchema(ctx, subject, schema, -1, -1)
		}
		return err
	})
	if errors.Is(err, errAbsent) {
		return 0, &fault.Error{Code: "schema/not-registered", Kind: fault.Config, Thing: "subject", Value: subject,
			Reason: "the schema is not registered under it, and this program only looks schemas up",
			Remedy: "register it, or leave out LookUpOnly"}
	}
	return got.ID, err
}

// errAbsent is in the errors of what the registry does not have.
var errAbsent = errors.New("the registry does not have it")

// ask asks until it is answered or the time is over. absent is how often something may be asked for that is not there.
func (r *Registry) ask(thing, value string, absent int, do func(context.Context) error) error {
	if r == nil || r.client == nil {
		return &fault.Error{Code: "schema/no-client", Kind: fault.Config, Thing: thing, Value: value,
			Reason: "there is no schema registry to ask", Remedy: "make one with registry.New and an sr.Client"}
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	pause := retryFirst
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		refused, again := refusal(thing, value, err)
		if errors.Is(refused, errAbsent) {
			absent--
			again = absent > 0
		}
		if !again {
			return refused
		}
		select {
		case <-ctx.Done():
			return refused
		case <-time.After(pause):
			pause = min(2*pause, retryMax)
		}
	}
}

// refusal makes a typed error of what went wrong, and says whether time may heal it.
func refusal(thing, value string, err error) (refused error, again bool) {
	e := &fault.Error{
		Code: "schema/unreachable", Kind: fault.Cluster, Thing: thing, Value: value,
		Reason: "the schema registry does not answer", Err: err,
		Remedy: "look whether it runs at the address the client was given, and whether this host may connect to it",
	}
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		if strings.Contains(err.Error(), "decode ok response") {
			e.Reason, e.Err = "what answers is no schema registry: its answer is not one's", nil
			e.Remedy = "look at the address the client was given: a proxy or another service may be there"
			return e, false
		}
		return e, true
	}
	e.Err = nil // its text is all the registry said, a page of a proxy perhaps
	said := fmt.Sprintf("the schema registry answers %d: %s", answer.StatusCode, clip(answer.Error()))
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound:
		e.Code, e.Kind, e.Reason, e.Err = "schema/unknown", fault.Record, said, errAbsent
		e.Remedy = "look whether the writer uses the same registry, and whether the schema was deleted there"
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.Code, e.Reason, e.Remedy = "schema/denied", said, "give the client credentials that may read the subject, and write it if schemas are to be registered"
	case code == http.StatusConflict:
		e.Code, e.Kind, e.Reason = "schema/conflict", fault.Config, said
		e.Remedy = "change the schema so that it is compatible with the subject's versions, or the subject's compatibility level"
	case code == http.StatusTooManyRequests || code >= 500:
		e.Reason = said
		return e, true
	default:
		e.Code, e.Kind, e.Reason, e.Remedy = "schema/rejected", fault.Config, said, "correct the schema or the subject"
	}
	return e, false
}

func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > messageBytes {
		s = strings.ToValidUTF8(s[:messageBytes], "") + "..."
	}
	return s
}

// Len is the number of schema ids of which something is kept.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byID)
}
