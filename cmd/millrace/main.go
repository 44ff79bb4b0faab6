// Command millrace helps to operate applications built on millrace.
//
//	millrace reset -app ID -brokers HOST:PORT[,...] [-to earliest|latest|keep] [-state DIR] [-dry-run] [-yes]
//	millrace state show|verify|dump|diff|fork -from DIR ...
//	millrace version
//
// Flags take one dash or two. The exit status says who has to act: 0 done, 1 interrupted, 2 the command line or the answer "no", 3 a state
// directory or a registry that was refused, 4 the cluster or members that are still there. docs/errors.md has every code.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace-io/millrace/internal/fault"
)

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	person   bool // somebody can answer a question
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // a reader that stops reading, as head does, must not end a reset half way
	status := run(ctx, os.Args[1:], terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, person: isTerminal(os.Stdin)})
	stop()
	os.Exit(status)
}

// isTerminal reports whether somebody may be typing. The null device is a character device too.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// run is the command without the process: it returns the exit status. What went wrong is the last line on err.
func run(ctx context.Context, args []string, term terminal) int {
	return execute(ctx, args, term, nil)
}

// execute runs the command line. after, where it is not nil, is called after each step of a reset; its error ends the reset there.
func execute(ctx context.Context, args []string, term terminal, after func(step string) error) int {
	root := &cobra.Command{
		Use:               "millrace",
		Short:             "Operate applications built on millrace",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              noArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(resetCommand(term, after), stateCommand(term), versionCommand())
	root.SetIn(term.in)
	root.SetOut(term.out)
	root.SetErr(term.err)
	root.SetArgs(twoDashes(args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var typed *fault.Error
	if !errors.As(err, &typed) {
		// Cobra's own: a command that does not exist.
		err = usage(err.Error(), "`millrace -h` lists the commands")
	}
	fmt.Fprintf(term.err, "millrace: %v\n", err)
	return fault.ExitCode(err)
}

// twoDashes lets flags be written as Go programs write them: -app is --app.
func twoDashes(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] >= 'a' && a[1] <= 'z' {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}

// flagError makes pflag's complaint one of ours, with the flag that was probably meant.
func flagError(c *cobra.Command, err error) error {
	remedy := "`" + c.CommandPath() + " -h` lists the flags"
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), names); len(near) > 0 {
			remedy = "did you mean -" + strings.Join(near, " or -") + "? " + remedy
		}
	}
	return usage(strings.ReplaceAll(err.Error(), "--", "-"), remedy)
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !c.HasParent() {
		var names []string
		for _, sub := range c.Commands() {
			names = append(names, sub.Name())
		}
		remedy := "`millrace -h` lists the commands"
		if near := nearest(args[0], names); len(near) > 0 {
			remedy = "did you mean `millrace " + near[0] + "`? " + remedy
		}
		return usage(fmt.Sprintf("there is no command %q", args[0]), remedy)
	}
	return usage(fmt.Sprintf("%q is neither a flag nor a flag's value", args[0]), "`"+c.CommandPath()+" -h` lists the flags")
}

func usage(reason, remedy string) *fault.Error {
	return &fault.Error{Code: "cli/usage", Kind: fault.Config, Thing: "command line", Reason: reason, Remedy: remedy}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				info = &debug.BuildInfo{}
			}
			version, commit := info.Main.Version, ""
			if version == "" {
				version = "(devel)"
			}
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					commit = " " + s.Value
				}
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "millrace %s%s %s\n", version, commit, info.GoVersion)
			return err
		},
	}
}
