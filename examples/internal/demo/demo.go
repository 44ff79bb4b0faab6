// Package demo is the stage on which the examples play: a cluster (embedded, or the one -brokers names), the topics an
// example needs, somebody who writes into them and reads from them, and a line that shows how far things are. Nothing in
// here is millrace; a program of your own has all of it already.
package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/stream"
)

// ErrInterrupted is what ends an example at Ctrl-C. It is not a failure.
var ErrInterrupted = errors.New("interrupted")

// Main runs an example as a command: it reads the flags -brokers and -again, gets a cluster, creates the topics of the
// topology, calls run, and ends the process with the exit status of what run returned. Ctrl-C cancels run's context.
func Main(app string, build func() (*stream.Topology, error), run func(context.Context, *Kafka, *stream.Topology) error) {
	brokers := flag.String("brokers", "", "run on this cluster (host:port, comma separated) instead of an embedded broker")
	again := flag.Bool("again", false, "with -brokers: delete the topics and the group of an earlier run first")
	flag.StringVar(&part, "part", "", "with -brokers: app runs the application alone, until it is stopped; rest does everything else")
	state := flag.String("state", "", "keep the state in this directory instead of one that is removed at the end")
	flag.IntVar(&rate, "rate", 0, "write no more than so many records a second; 0 is as fast as it goes")
	flag.Parse()
	if part != "" && (part != onlyApp && part != onlyRest || *brokers == "") {
		fmt.Fprintln(os.Stderr, "-part is app or rest, and needs -brokers")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := onStage(ctx, app, *brokers, *state, *again, build, run)
	stop()
	switch {
	case errors.Is(err, errAppAlone):
		err = nil
	case errors.Is(err, ErrInterrupted):
		fmt.Fprintln(os.Stderr, "interrupted before the end")
		err = nil
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(millrace.ExitCode(err))
}

// part is what of an example this process does; "" is everything. With the two halves in processes of their own, the one with the
// application can be killed and started again, or there can be several.
var part string

const (
	onlyApp  = "app"
	onlyRest = "rest"
)

// rate is how many records Send writes in a second, 0 for as many as possible.
var rate int

// errAppAlone ends an example whose application ran alone.
var errAppAlone = errors.New("the application was stopped")

func onStage(ctx context.Context, app, brokers, state string, again bool, build func() (*stream.Topology, error), run func(context.Context, *Kafka, *stream.Topology) error) error {
	top, err := build()
	if err != nil {
		return err
	}
	k, err := open(ctx, app, brokers, state, again, top)
	if err != nil {
		return interrupted(ctx, err)
	}
	err = interrupted(ctx, run(ctx, k, top))
	return errors.Join(err, k.Close())
}

// interrupted turns what a cancelled context made of a call into ErrInterrupted.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return ErrInterrupted
	}
	return err
}

// Kafka is the cluster an example runs on, and the directory for its state, which is removed by Close.
type Kafka struct {
	Addrs    []string
	StateDir string

	keep     bool // the state directory
	embedded *devkafka.Broker
	client   *outside
}

// Open starts the embedded broker or connects to brokers, and creates the topics that top reads and writes. Topics that
// are there already are refused, because an example compares what comes out with what it put in; with again they are
// deleted first, together with everything else the application owns in the cluster.
func Open(ctx context.Context, app, brokers string, again bool, top *stream.Topology) (*Kafka, error) {
	return open(ctx, app, brokers, "", again, top)
}

func open(ctx context.Context, app, brokers, state string, again bool, top *stream.Topology) (*Kafka, error) {
	k := &Kafka{StateDir: state, keep: state != ""}
	if err := k.open(ctx, app, brokers, again, top); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kafka) open(ctx context.Context, app, brokers string, again bool, top *stream.Topology) (err error) {
	if k.StateDir == "" {
		if k.StateDir, err = os.MkdirTemp("", "millrace-"+app+"-"); err != nil {
			return err
		}
	}
	if brokers == "" {
		if k.embedded, err = devkafka.Start(devkafka.Options{}); err != nil {
			return err
		}
		k.Addrs = k.embedded.Addrs()
		fmt.Printf("An embedded broker listens on %s. For a real cluster: -brokers host:port\n", strings.Join(k.Addrs, ","))
	} else {
		for _, addr := range strings.Split(brokers, ",") {
			k.Addrs = append(k.Addrs, strings.TrimSpace(addr))
		}
	}
	if k.client, err = connect(k.Addrs); err != nil {
		return err
	}
	if part == onlyApp {
		return nil
	}
	if again {
		if err := k.client.forget(ctx, app, top); err != nil {
			return err
		}
	}
	return k.client.create(ctx, top)
}

// While runs app, and f beside it. When f returns, app is stopped; when app ends by itself, f's context is cancelled. It
// returns when both have ended, with the errors of both.
func While(ctx context.Context, app *millrace.App, f func(context.Context) error) error {
	switch part {
	case onlyApp:
		if err := app.Run(ctx); err != nil {
			return err
		}
		return errAppAlone
	case onlyRest:
		return f(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ran := make(chan error, 1)
	go func() {
		err := app.Run(ctx)
		cancel()
		ran <- err
	}()
	err := f(ctx)
	closed := app.Close()
	failed := <-ran
	if failed != nil && errors.Is(err, context.Canceled) {
		err = nil // f saw only the end of its context; the cause is the application's
	}
	if errors.Is(closed, failed) {
		closed = nil
	}
	return errors.Join(failed, closed, err)
}

// Close stops the embedded broker, if there is one, and removes the state directory.
func (k *Kafka) Close() error {
	if k.client != nil {
		k.client.close()
	}
	if k.embedded != nil {
		k.embedded.Close()
	}
	if k.StateDir == "" || k.keep {
		return nil
	}
	return os.RemoveAll(k.StateDir)
}

// Quiet is a logger for programs whose progress is on the screen already: warnings and errors only.
func Quiet(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
