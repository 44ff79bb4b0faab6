// Sessions cuts the clicks of each user into sessions: a session is over when nothing has come for half an hour. It makes a day of
// clicks, some of them out of order, and compares the sessions with those found by sorting each user's clicks.
//
//	go run ./examples/05-sessions [-brokers host:port]
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
)

// gap is how long a session waits for another click.
const gap = 30 * time.Minute

// Summary is a session that is over.
type Summary struct {
	Began, Ended time.Time // Ended is the last click and the gap
	Clicks       int64
	Pages        int
	Favourite    string // the page clicked most often
}

// What is kept of a user's session while it goes on, and the timer that ends it: exactly one per user.
var (
	clicks   = stream.NewTopic("sessions-clicks", serde.String(), serde.String()) // user -> page
	sessions = stream.NewTopic("sessions-over", serde.String(), serde.JSON[Summary]())

	pages = store.Map("pages", serde.String(), serde.String(), serde.Int64())
	began = store.Value("began", serde.String(), serde.Time())
	ends  = store.Value("ends", serde.String(), serde.Time())
	over  = timers.New("over", serde.String(), timers.EventTime)
)

func topology() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.ProcessValues(stream.From(b, clicks), newTracker, pages, began, ends, over).To(sessions)
	return b.Build()
}

type tracker struct {
	pages store.MapState[string, string, int64]
	began store.ValueState[string, time.Time]
	ends  store.ValueState[string, time.Time]
	over  *timers.Set[string]
}

func newTracker() processor.Processor[string, string, string, Summary] { return &tracker{} }

func (t *tracker) Init(ctx processor.InitContext) (err error) {
	if t.pages, err = pages.In(ctx); err != nil {
		return err
	}
	if t.began, err = began.In(ctx); err != nil {
		return err
	}
	if t.ends, err = ends.In(ctx); err != nil {
		return err
	}
	t.over, err = over.In(ctx)
	return err
}

func (t *tracker) Process(ctx processor.Context[string, Summary], r processor.Record[string, string]) error {
	user := r.Key
	end, open, err := t.ends.Get(user)
	if err != nil {
		return err
	}
	if open && !r.Time.Before(end) {
		// The clock moves with this very click, and the timer would fire behind it: the click belongs to the next session.
		if err := t.over.Delete(user, end); err != nil {
			return err
		}
		if err := t.close(ctx, user, end); err != nil {
			return err
		}
		open = false
	}
	if err := t.extend(user, r.Time, end, open); err != nil {
		return err
	}
	n, _, err := t.pages.Get(user, r.Value)
	if err != nil {
		return err
	}
	return t.pages.Put(user, r.Value, n+1)
}

// extend makes a session reach a click. A click out of order may let it begin earlier; it never lets it end earlier.
func (t *tracker) extend(user string, at, end time.Time, open bool) error {
	first, _, err := t.began.Get(user)
	if err != nil {
		return err
	}
	if !open || at.Before(first) {
		if err := t.began.Put(user, at); err != nil {
			return err
		}
	}
	next := at.Add(gap)
	if open && !next.After(end) {
		return nil
	}
	if open {
		if err := t.over.Delete(user, end); err != nil {
			return err
		}
	}
	if err := t.over.Set(user, next); err != nil {
		return err
	}
	return t.ends.Put(user, next)
}

func (t *tracker) OnTimer(ctx processor.Context[string, Summary], f timers.Fired[string]) error {
	return t.close(ctx, f.Key, f.At)
}

// close says what the session was, and forgets it.
func (t *tracker) close(ctx processor.Context[string, Summary], user string, end time.Time) error {
	first, _, err := t.began.Get(user)
	if err != nil {
		return err
	}
	s := Summary{Began: first, Ended: end}
	most := int64(0)
	scan := t.pages.All(user)
	for page, n := range scan.Rows() {
		s.Clicks += n
		s.Pages++
		if n > most {
			most, s.Favourite = n, page
		}
	}
	if err := scan.Err(); err != nil {
		return err
	}
	if err := t.pages.Clear(user); err != nil {
		return err
	}
	if err := t.began.Clear(user); err != nil {
		return err
	}
	if err := t.ends.Clear(user); err != nil {
		return err
	}
	return ctx.Forward(processor.Record[string, Summary]{Key: user, Value: s, Time: end})
}

func main() { demo.Main("sessions", topology, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	day := generate(500, time.Now().Add(-48*time.Hour).Truncate(time.Second))
	want, total := cut(day), int64(0)
	for _, of := range want {
		total += int64(len(of))
	}

	var progress demo.Progress
	app, err := millrace.New("sessions", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("A day of %s clicks, a tenth of them out of order. The first sessions:\n", demo.Number(int64(len(day))))
	var seen atomic.Int64
	stop := progress.Show(func() string { return fmt.Sprintf("%d sessions of %d", seen.Load(), total) })
	defer stop()
	err = demo.While(ctx, app, func(ctx context.Context) error {
		if err := demo.Send(ctx, kafka, clicks, records(day)); err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, sessions, func(r processor.Record[string, Summary]) (bool, error) {
			if seen.Load() < 8 {
				fmt.Printf("  %s  %s to %s  %2d clicks on %d pages, most on %s\n", r.Key, r.Value.Began.Format(time.TimeOnly),
					r.Value.Ended.Format(time.TimeOnly), r.Value.Clicks, r.Value.Pages, r.Value.Favourite)
			}
			return seen.Add(1) == total, nil
		})
	})
	stop()
	if err != nil {
		return err
	}

	all, err := demo.All(ctx, kafka, sessions)
	if err != nil {
		return err
	}
	if err := compare(all, want); err != nil {
		return err
	}
	fmt.Printf("\nAll %s sessions are those that the sorted clicks of each user show.\n", demo.Number(int64(len(all))))
	return nil
}
