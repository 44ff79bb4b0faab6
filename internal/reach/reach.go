// Package reach finds out whether a cluster can be talked to, and says in a person's words why not.
package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
)

// Watch remembers a client's last connection error: kgo retries for long and then only says that it gave up. Give it to
// the client with kgo.WithHooks. Any goroutine may use it.
type Watch struct {
	mu  sync.Mutex
	err error
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (w *Watch) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	w.note(err)
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (w *Watch) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	w.note(err)
}

func (w *Watch) note(err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
}

func (w *Watch) last() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Cluster waits until a broker has answered, at most for timeout, and returns the cluster's id. brokers and encrypted are
// what the client was told, for the message. The error is a *fault.Error, or ctx's when that ended first. A failure that
// time does not heal (no such host, a port that speaks another protocol) ends it early.
func Cluster(ctx context.Context, cl *kgo.Client, w *Watch, brokers []string, encrypted bool, timeout time.Duration) (id string, err error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(bounded, 3*time.Second)
		meta, err := kadm.NewClient(cl).BrokerMetadata(attempt)
		done()
		if err == nil && len(meta.Brokers) > 0 {
			return meta.Cluster, nil
		}
		if err == nil {
			err = errors.New("the cluster has no brokers")
		}
		last := w.last()
		if last == nil {
			last = err
		}
		if permanent(last) {
			return "", explain(last, brokers, encrypted, timeout)
		}
		select {
		case <-bounded.Done():
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return "", explain(last, brokers, encrypted, timeout)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// permanent says whether a connection error will be the same next time.
func permanent(err error) bool {
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var eof *kgo.ErrFirstReadEOF
	return errors.As(err, &record) || errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &eof) ||
		strings.Contains(err.Error(), "HTTP") || strings.Contains(err.Error(), "SASL") || strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls:")
}

// explain says in a person's words why there is no connection.
func explain(last error, brokers []string, encrypted bool, timeout time.Duration) error {
	e := &fault.Error{Code: "cluster/unreachable", Kind: fault.Cluster, Thing: "brokers", Value: strings.Join(brokers, ","),
		Reason: "no answer within " + timeout.String(), Remedy: "check the addresses, that the brokers run, and that their advertised listeners are reachable from here", Err: last}
	var record tls.RecordHeaderError
	var eof *kgo.ErrFirstReadEOF
	text := last.Error()
	switch {
	case encrypted && strings.Contains(text, "i/o timeout") && listens(brokers[0]):
		e.Code, e.Reason = "cluster/tls-to-plaintext", "the port takes connections but does not answer a TLS handshake"
		e.Remedy = "leave millrace.TLS out, or name the broker's TLS listener"
	case encrypted && (errors.As(last, &record) || strings.Contains(text, "first record does not look like a TLS handshake") || strings.Contains(text, "EOF") && !strings.Contains(text, "SASL")):
		e.Code, e.Reason = "cluster/tls-to-plaintext", "the broker does not speak TLS on this port"
		e.Remedy = "leave millrace.TLS out, or name the broker's TLS listener"
	case strings.Contains(text, "HTTP"):
		e.Code, e.Reason = "cluster/not-kafka", "a web server answers there"
		e.Remedy = "name the port of a Kafka broker"
	case !encrypted && (errors.As(last, &eof) || strings.Contains(text, "invalid large response size") || strings.Contains(text, "EOF")):
		e.Code, e.Reason = "cluster/plaintext-to-tls", "the broker closed the connection at the first request, as one does that expects TLS or SASL"
		e.Remedy = "add millrace.TLS or millrace.SASL, or name the broker's plaintext listener"
	case strings.Contains(text, "SASL"):
		e.Code, e.Reason, e.Remedy = "cluster/sasl", "authentication failed", "check the mechanism, the user and the password"
	case strings.Contains(text, "x509:"), strings.Contains(text, "tls:"):
		e.Code, e.Reason, e.Remedy = "cluster/certificate", "the TLS handshake failed", "check the certificate authorities, the host name and the client certificate"
	case strings.Contains(text, "connection refused"):
		e.Reason = "nothing listens there"
	}
	return e
}

// listens reports whether anybody takes TCP connections there.
func listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
