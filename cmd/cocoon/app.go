package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store"
)

// app is what every verb needs: the output streams, the settings, and the house,
// opened on first use.
type app struct {
	out, errOut *screen.Screen
	stderr      *os.File // for guards, which are separate processes; nil if it is no file
	env         func(string) (string, bool)
	config      house.Settings
	progress    string
	log         *slog.Logger

	opened *house.House // by the first use; at least its store is open

	examines bool // the verb only reports, and changes nothing

	done chan struct{} // closed at the end of the verb
}

func newRoot(a *app) *cobra.Command {
	flags := map[string]*pflag.Flag{}
	var file string
	root := &cobra.Command{
		Use:           "cocoon",
		Short:         "Snapshots of Cloud Hypervisor microVMs, kept as first-class objects",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return failure.New(failure.Usage, "unknown command %q", args[0])
			}
			return c.Help()
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.load(c, flags, file) },
	}
	pf := root.PersistentFlags()
	for key, flag := range map[string]string{"rootDir": "root-dir", "runDir": "run-dir", "logLevel": "log-level", "logFormat": "log-format", "hypervisor": "hypervisor", "cacheMaxBytes": "cache-max-bytes", "maxStoreSize": "max-store-size", "keyFile": "key-file"} {
		pf.String(flag, "", settingHelp(key))
		flags[key] = pf.Lookup(flag)
	}
	pf.StringVar(&file, "config", "", "configuration `file` (default "+config.DefaultFile+")")
	pf.StringVar(&a.progress, "progress", "auto", "progress on stderr: auto, plain, json or none")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return failure.Wrap(failure.Usage, err) })
	root.AddCommand(newVM(a), newSnapshot(a), newImage(a), newGC(a), newSystem(a), newConfig(a), newVersion(a), newRefs(a), newDemo(a), newGuard(a), newRescue(a), newUndemo(a), newMaterialise(a))
	return root
}

func settingHelp(key string) string {
	for _, s := range config.Settings() {
		if s.Key == key {
			return "default " + cmp.Or(s.Default, "none") + ", or $" + s.Env
		}
	}
	return ""
}

func (a *app) load(c *cobra.Command, flags map[string]*pflag.Flag, file string) error {
	given := map[string]string{}
	for key, f := range flags {
		if f.Changed && f.Value.String() == "" { // from an unset variable: the default was not requested
			return failure.New(failure.Usage, "--%s is empty", f.Name)
		}
		if f.Changed {
			given[key] = f.Value.String()
		}
	}
	switch a.progress {
	case "auto", "plain", "json", "none":
	default:
		return failure.New(failure.Usage, "--progress %q: auto, plain, json or none", a.progress)
	}
	var err error
	if a.config, err = house.Settle(given, a.env, file); err != nil {
		return err
	}
	a.log, err = newLogger(a.errOut, a.set("logLevel"), a.set("logFormat"))
	return err
}

// newLogger writes messages that are no results: rescues, rebuilds, fall-backs.
func newLogger(s *screen.Screen, level, format string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, failure.New(failure.Usage, "log level %q: debug, info, warn or error", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(s.Text(), &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(s.JSONLog(), &o)), nil
	}
	return nil, failure.New(failure.Usage, "log format %q: text or json", format)
}

func (a *app) set(key string) string { return a.config.Of(key) }

// store opens the store; if there is none that is failure.NotFound.
func (a *app) store(ctx context.Context) (*store.Store, error) {
	h, err := a.openStore(ctx, false)
	if err != nil {
		return nil, err
	}
	return h.Store, nil
}

// open opens the store and the engines over it.
func (a *app) open(ctx context.Context) (*house.House, error) { return a.openHost(ctx, false) }

// openNew is open for verbs that put something in: it creates a missing store.
func (a *app) openNew(ctx context.Context) (*house.House, error) { return a.openHost(ctx, true) }

func (a *app) openHost(ctx context.Context, create bool) (*house.House, error) {
	h, err := a.openStore(ctx, create)
	if err == nil {
		err = h.Engines(ctx)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (a *app) openStore(ctx context.Context, create bool) (*house.House, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a.opened, err = house.OpenStore(ctx, house.Options{
		Settings: a.config, Program: self, Create: create, Examines: a.examines, Log: a.log, Stderr: a.stderr,
	})
	return a.opened, err
}

// each runs do for every reference and fails if any failed.
func each(refs []string, do func(ref string) error) error {
	var errs []error
	for _, r := range refs {
		if err := do(r); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// eachAtOnce is each for operations that wait more than they compute.
func eachAtOnce(refs []string, do func(ref string) error) error {
	errs := make([]error, len(refs))
	var all sync.WaitGroup
	for i, r := range refs {
		all.Go(func() { errs[i] = do(r) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return strings.Join(lines, "; ")
}

// needArgs is cobra's argument check with the usage class.
func needArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return failure.Wrap(failure.Usage, check(c, args)) }
}
