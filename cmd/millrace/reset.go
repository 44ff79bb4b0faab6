package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
)

// reset lets an application start over. It looks first and shows a plan; then it does, in this order,
//
//	fence         open transactions are ended; nothing that a dead instance began can be committed any more
//	offsets       the group's offsets are set, without millrace's metadata
//	changelogs, repartition topics, and last the tasks topic, are deleted
//	state         the local state directory is emptied
//
// The tasks topic holds the registry that says what else there is, so that an interrupted reset can be repeated: it finds what is left. In between
// an application that is started refuses (its state contradicts its offsets, or a topic is not the registered one), it never counts on
// half of a state.
type reset struct {
	app          string
	brokers      []string
	to           string
	state        string
	yes          bool
	dryRun       bool
	unregistered bool
	timeout      time.Duration

	term    terminal
	after   func(step string) error
	cl      *kgo.Client
	adm     *kadm.Client
	cluster string
}

// Where the offsets go.
const (
	toEarliest = "earliest"
	toLatest   = "latest"
	toKeep     = "keep"
)

const resetHelp = `Start an application over: its state is deleted, and its consumer group is set to where it shall begin.

Stop every instance first: while the group has members nothing is done. A plan is shown and has to be confirmed before anything is
changed; -dry-run shows the plan and ends. A reset that was interrupted is finished by giving the same command again.

Deleted are the changelogs, the repartition topics (with what is still in them) and the tasks topic of the application, as its own registry lists
them; with -state also the local state directory. Input and output topics are never touched: results that were written stay, and an
application that begins at the earliest offset writes them again.

Where the next start begins (-to):
  earliest   at the first record its input topics still hold; topics that are read as tables too
  latest     behind the last record of now; of topics that are read as tables nothing is seen until it changes
  keep       where the group is now, with empty state

Flags take one dash or two.`

const resetExamples = `  millrace reset -app wordcount -brokers localhost:9092 -dry-run
  millrace reset -app wordcount -brokers localhost:9092 -state ./state
  millrace reset -app wordcount -brokers k1:9092,k2:9092 -to keep -yes`

func resetCommand(term terminal, after func(string) error) *cobra.Command {
	r := &reset{term: term, after: after}
	c := &cobra.Command{
		Use: "reset -app ID -brokers HOST:PORT[,...]", Short: "Let an application start over with empty state",
		Long: resetHelp, Example: resetExamples, Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error { return r.run(c.Context()) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&r.app, "app", "", "application `ID`, as given to millrace.New")
	f.StringSliceVar(&r.brokers, "brokers", nil, "seed brokers, as `HOST:PORT`, separated by commas")
	f.StringVar(&r.to, "to", toEarliest, "`WHERE` the next start begins: earliest, latest or keep")
	f.StringVar(&r.state, "state", "", "state `DIR` on this host, as given to millrace.StateDir: the application's part of it is deleted")
	f.BoolVar(&r.dryRun, "dry-run", false, "show the plan and change nothing")
	f.BoolVar(&r.yes, "yes", false, "do not ask")
	f.BoolVar(&r.unregistered, "include-unregistered", false, "delete topics with names of the application too that its registry does not list")
	f.DurationVar(&r.timeout, "timeout", 30*time.Second, "how long each step waits for the brokers")
	c.SetFlagErrorFunc(flagError)
	return c
}

func (r *reset) run(ctx context.Context) error {
	if err := r.check(); err != nil {
		return err
	}
	err := r.planAndApply(ctx)
	if err != nil && ctx.Err() != nil {
		return &fault.Error{
			Code: "reset/interrupted", Kind: fault.Internal, Thing: "application", Value: r.app, Reason: "the reset was interrupted",
			Remedy: "give the same command again: it finishes what is left", Err: ctx.Err(),
		}
	}
	return err
}

// check is what can be said of the flags alone, all at once.
func (r *reset) check() error {
	var errs []error
	const flags = "`millrace reset -h` lists the flags"
	switch {
	case r.app == "":
		errs = append(errs, usage("-app is missing", "name the application's id, as given to millrace.New; "+flags))
	case len(r.app) > 100 || strings.Trim(r.app, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "":
		errs = append(errs, usage(fmt.Sprintf("-app %q is no application id", r.app), "1 to 100 letters, digits, '.', '_' or '-'"))
	}
	if len(r.brokers) == 0 {
		errs = append(errs, usage("-brokers is missing", "name at least one seed broker as host:port; "+flags))
	}
	for _, b := range r.brokers {
		if strings.TrimSpace(b) == "" {
			errs = append(errs, usage("-brokers names an empty address", "name each broker as host:port"))
		}
	}
	if r.to != toEarliest && r.to != toLatest && r.to != toKeep {
		errs = append(errs, usage(fmt.Sprintf("-to %q is unknown", r.to), "earliest, latest or keep"))
	}
	if r.timeout <= 0 {
		errs = append(errs, usage(fmt.Sprintf("-timeout %s is not positive", r.timeout), "leave it out for 30s"))
	}
	return errors.Join(errs...)
}

func (r *reset) planAndApply(ctx context.Context) (err error) {
	if err := r.connect(ctx); err != nil {
		return err
	}
	defer r.cl.Close()
	p, err := r.plan(ctx)
	if err != nil {
		return err
	}
	var dir *changelog.StateDir
	if p.dir != "" && !r.dryRun {
		if dir, err = changelog.LockStateDir(r.state, r.app, ""); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dir.Close()) }()
	}
	p.print(r.term.out)
	if r.dryRun {
		r.say("\nNothing was changed (-dry-run).")
		return nil
	}
	if err := r.confirm(ctx); err != nil {
		return err
	}
	if err := r.apply(ctx, p, dir); err != nil {
		return err
	}
	r.sayWhatIsNext(p)
	return nil
}

// confirm asks, unless it was told not to. Nobody to ask is a refusal.
func (r *reset) confirm(ctx context.Context) error {
	if r.yes {
		return nil
	}
	refuse := func(reason, remedy string) error {
		return &fault.Error{Code: "reset/not-confirmed", Kind: fault.Config, Thing: "application", Value: r.app, Reason: reason, Remedy: remedy}
	}
	if !r.term.person {
		return refuse("there is no terminal to ask on, and nothing was changed", "look at the plan, then give the command with -yes")
	}
	fmt.Fprintf(r.term.out, "\nThis cannot be undone. Type the application's id to go on: ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(r.term.in).ReadString('\n') // what was read before the end is the answer
		answer <- strings.TrimSpace(line)
	}()
	select {
	case a := <-answer:
		if a == r.app {
			return nil
		}
		r.say("")
		return refuse("the answer was not the application's id, and nothing was changed", "give the command again when you are sure")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reset) say(format string, args ...any) { fmt.Fprintf(r.term.out, format+"\n", args...) }

func (r *reset) sayWhatIsNext(p *plan) {
	begins := map[string]string{
		toEarliest: "at the first record its inputs hold", toLatest: "behind the last record its inputs held a moment ago",
		toKeep: "where the group was",
	}[r.to]
	if len(p.moves) == 0 {
		begins = "where its sources' start positions say, since the group had no offsets"
	}
	r.say("\nDone. The next start of %q makes its topics anew and begins %s, with empty state.", r.app, begins)
	for _, t := range p.unset {
		r.say("For %s the group has no offset: the source's own start position decides.", t)
	}
	for _, t := range p.left {
		r.say("Topic %s was left: %s.", t.name, t.note)
	}
	switch {
	case p.dir == "":
		r.say("On every host where it ran, delete <its state directory>/%s: an instance that finds the old one refuses to start.", p.dirName)
	default:
		r.say("On other hosts where it ran, delete <its state directory>/%s: an instance that finds the old one refuses to start.", p.dirName)
	}
}
