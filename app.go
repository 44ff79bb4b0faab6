package millrace

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/runtime"
	"github.com/millrace-io/millrace/topology"
)

// App is one instance of an application: one member of the consumer group that its id names.
//
//	created --> starting --> rebalancing <--> running
//	   |            |             |              |
//	   |            +------+------+--------------+
//	   |                   v
//	   +--------------> closing --> closed, or failed when there was an error
type App struct {
	rt       *runtime.Runtime
	listener listener
}

// New checks the configuration and the topology, without talking to Kafka, and returns every mistake at once: each an
// *Error, joined. id names the consumer group, is the prefix of the topics millrace creates, and must never be shared by
// two applications.
func New(id string, top *topology.Topology, opts ...Option) (*App, error) {
	c := runtime.Defaults()
	c.App, c.Topology = id, top
	for _, o := range opts {
		o.apply(&c)
	}
	a := &App{}
	if c.Metrics.Listen != "" {
		c.Alongside = a.listener.start
	}
	rt, err := runtime.New(c)
	if err != nil {
		return nil, err
	}
	a.rt = rt
	a.listener.app, a.listener.set, a.listener.log = a, c.Metrics, cmp.Or(c.Log, slog.Default()).With("app", id)
	return a, nil
}

// Run starts the instance and processes records until ctx is done, Close is called, or something fails that it cannot
// get over. Before it returns it commits what was processed, hands its tasks over and leaves the group, within the
// shutdown timeout. nil means a clean stop; any other error can be turned into an exit status with ExitCode. An App runs
// once.
func (a *App) Run(ctx context.Context) error { return a.rt.Run(ctx) }

// Close asks Run to stop and waits until it has. It may be called by any goroutine, more than once, and before Run.
func (a *App) Close() error { return a.rt.Close() }

// State says where in its life the application is: "created", "starting", "rebalancing", "running", "closing", "closed"
// or "failed". Any goroutine may ask.
func (a *App) State() string { return string(a.rt.State()) }

// Error is the shape of every error a person can act on. Its Code is stable; docs/errors.md lists them all.
type Error = fault.Error

// ExitCode is the exit status a program should end with for what New or Run returned: 0 for nil, 2 for configuration,
// 3 for refused state, 4 for the cluster, 1 for everything else.
func ExitCode(err error) int { return fault.ExitCode(err) }
