package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/reach"
)

// connect makes a client and waits until a broker has answered, at most for the timeout of the command.
func (r *reset) connect(ctx context.Context) error {
	watch := &reach.Watch{}
	cl, err := kgo.NewClient(append(r.clientOpts(), kgo.WithHooks(watch))...)
	if err != nil {
		return usage(err.Error(), "name brokers as -brokers host:port,host:port")
	}
	cluster, err := reach.Cluster(ctx, cl, watch, r.brokers, false, r.timeout)
	if err != nil {
		cl.Close()
		return err
	}
	r.cl, r.adm, r.cluster = cl, kadm.NewClient(cl), cluster
	return nil
}

// patient asks until the answer is no passing refusal: a coordinator that is being elected or loads, as in a cluster where no group ever was.
func patient[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	for {
		answer, err := ask()
		var said *kerr.Error
		if !errors.As(err, &said) || !said.Retriable {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (r *reset) clientOpts() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(r.brokers...), kgo.ClientID("millrace-reset-" + r.app),
		kgo.DialTimeout(5 * time.Second), kgo.MetadataMinAge(50 * time.Millisecond),
	}
}
