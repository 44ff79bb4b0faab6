package millrace

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/runtime"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/observe/prom"
)

// Snapshot returns what the instance has done and holds, at this moment. Any goroutine may ask, before, while and after it runs; no
// worker waits for it. It looks at the databases on disk, which takes about a millisecond per ten tasks: not for every
// record. The first one, and those that follow within a minute, also have the ends of the inputs asked for in the background,
// every five seconds.
func (a *App) Snapshot() observe.Snapshot { return a.rt.Snapshot() }

// Describe returns what Snapshot does and the topology, for a person (String) or as JSON.
func (a *App) Describe() observe.Description {
	return observe.Description{Topology: a.rt.Topology(), Snapshot: a.rt.Snapshot()}
}

// MetricsAddr is where the metrics listener listens, as host:port; "" if there is none, or Run has not started it yet.
func (a *App) MetricsAddr() string { return a.listener.addr() }

// listener serves metrics and descriptions while the application runs.
type listener struct {
	app *App
	set runtime.Metrics
	log *slog.Logger

	mu sync.Mutex
	ln net.Listener
}

// The times a client has. A page is small, and who reads it is near.
const (
	headerTimeout = 5 * time.Second
	pageTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	headerBytes   = 16 << 10
	endTimeout    = time.Second // for pages that are being sent when the application ends
)

// start begins to listen; end ends it.
func (l *listener) start() (end func(), err error) {
	ln, err := net.Listen("tcp", l.set.Listen)
	if err != nil {
		return nil, l.failed(err.Error(), "choose another port, or 0 for a free one", err)
	}
	if at, ok := ln.Addr().(*net.TCPAddr); !l.set.Remote && (!ok || !at.IP.IsLoopback()) {
		_ = ln.Close()
		return nil, l.failed("it turned out to be "+ln.Addr().String()+", which is not a loopback address", "name it as 127.0.0.1 or ::1", nil)
	}
	l.mu.Lock()
	l.ln = ln
	l.mu.Unlock()
	srv := &http.Server{
		Handler: l.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: pageTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes, ErrorLog: slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); err != http.ErrServerClosed {
			l.log.Error("the metrics listener has ended", "err", err)
		}
	}()
	l.log.Info("metrics", "address", ln.Addr().String())
	return func() {
		l.mu.Lock()
		l.ln = nil
		l.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
	}, nil
}

func (l *listener) failed(reason, remedy string, err error) error {
	return &fault.Error{Code: "config/metrics-listener", Kind: fault.Config, Thing: "metrics listener", Value: l.set.Listen, Reason: reason, Remedy: remedy, Err: err}
}

func (l *listener) addr() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ln == nil {
		return ""
	}
	return l.ln.Addr().String()
}

func (l *listener) handler() http.Handler {
	c := prom.New(l.app)
	if l.set.PerTask {
		c = c.PerTask()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", c.Handler())
	mux.HandleFunc("GET /describe", l.describe)
	if l.set.Remote {
		return mux
	}
	// A page of somebody else's, opened in a browser on this machine, reaches loopback addresses under a name that it makes its own
	// DNS server resolve so. What it sends as Host gives it away.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) {
			http.Error(w, "this listener answers requests for 127.0.0.1, ::1 and localhost only; millrace.MetricsRemote lifts that", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// describe answers with JSON, or with text where that is asked for: /describe?as=text.
func (l *listener) describe(w http.ResponseWriter, r *http.Request) {
	d := l.app.Describe()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Get("as") == "text" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(d.String())) // whoever went away does not need it
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(d)
}
