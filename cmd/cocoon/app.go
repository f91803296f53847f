package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/capture"
	"github.com/cocoonv2/cocoon/internal/config"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/fingerprint"
	"github.com/cocoonv2/cocoon/internal/hypervisor"
	"github.com/cocoonv2/cocoon/internal/image"
	"github.com/cocoonv2/cocoon/internal/keeper"
	"github.com/cocoonv2/cocoon/internal/keyring"
	"github.com/cocoonv2/cocoon/internal/patience"
	"github.com/cocoonv2/cocoon/internal/runfolder"
	"github.com/cocoonv2/cocoon/internal/screen"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
)

// app is what every verb needs: where to print, the settings, and the rooms,
// opened when first asked for.
type app struct {
	out, errOut *screen.Screen
	stderr      *os.File // for guards, which are processes of their own; nil where it is no file
	env         func(string) (string, bool)
	config      map[string]config.Value
	progress    string
	log         *slog.Logger

	st *store.Store
	db *refs.DB

	examines bool // the verb says what it finds, and changes none of it

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
			return "default " + s.Default + ", or $" + s.Env
		}
	}
	return ""
}

func (a *app) load(c *cobra.Command, flags map[string]*pflag.Flag, file string) error {
	given := map[string]string{}
	for key, f := range flags {
		if f.Changed && f.Value.String() == "" { // of a variable that is not set: what the default is, was not asked for
			return failure.New(failure.Usage, "--%s is empty", f.Name)
		}
		if f.Changed {
			given[key] = f.Value.String()
		}
	}
	if file == "" {
		file, _ = a.env("COCOON_CONFIG")
	}
	switch a.progress {
	case "auto", "plain", "json", "none":
	default:
		return failure.New(failure.Usage, "--progress %q: auto, plain, json or none", a.progress)
	}
	var err error
	if a.config, err = config.Load(given, a.env, file); err != nil {
		return err
	}
	a.log, err = newLogger(a.errOut, a.set("logLevel"), a.set("logFormat"))
	return err
}

// newLogger writes what is worth telling but is no result: rescues, rebuilds,
// fall-backs.
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

func (a *app) set(key string) string { return a.config[key].Value }

// store opens the store, with refs.db following every commit and removal. Where
// there is none that is failure.NotFound: a mistyped folder, or one whose disk is
// not mounted, does not become a store because somebody looked into it.
func (a *app) store(ctx context.Context) (*store.Store, error) { return a.openStore(ctx, false) }

// begin is store for verbs that put something in: it is made where there is none.
func (a *app) begin(ctx context.Context) (*store.Store, error) { return a.openStore(ctx, true) }

func (a *app) openStore(ctx context.Context, create bool) (*store.Store, error) {
	if a.st != nil {
		return a.st, nil
	}
	if os.Geteuid() != 0 {
		return nil, failure.Hint(failure.New(failure.Usage, "cocoon must run as root"), "use sudo")
	}
	root, err := filepath.Abs(a.set("rootDir"))
	if err != nil {
		return nil, err
	}
	o := store.Options{Create: create, Keys: keyring.NewRing(a.set("keyFile")), Fingerprints: func(ctx context.Context) (*fingerprint.Key, error) {
		run := runfolder.New(a.set("runDir"), nil)
		if err := run.Ensure(); err != nil {
			return nil, err
		}
		return fingerprint.Load(ctx, run.Path())
	}}
	if limit := a.set("maxStoreSize"); limit != "" {
		if o.MaxBytes, err = parseSize("maxStoreSize", limit); err != nil {
			return nil, err
		}
	}
	st, err := store.Open(ctx, root, o)
	if err != nil {
		return nil, err
	}
	a.st, a.db = st, refs.New(st.Path("refs.db"), refs.Options{})
	a.follow(st)
	return st, nil
}

// rooms are the engines over one open store.
type rooms struct {
	store   *store.Store
	images  *image.Store
	vms     *vm.Manager
	saver   *capture.Saver
	restore *restore.Engine

	hypervisor *hypervisor.Hypervisor // the last two, for what takes both
}

func (a *app) open(ctx context.Context) (*rooms, error) { return a.openRooms(ctx, a.store) }

// openNew is open for verbs that put something in.
func (a *app) openNew(ctx context.Context) (*rooms, error) { return a.openRooms(ctx, a.begin) }

func (a *app) openRooms(ctx context.Context, open func(context.Context) (*store.Store, error)) (*rooms, error) {
	st, err := open(ctx)
	if err != nil {
		return nil, err
	}
	images := image.New(st)
	binary := a.set("hypervisor")
	wait, err := a.patience()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o := vm.Options{
		RunDir: a.set("runDir"), Keeper: keeper.Program(self), Binary: binary, CPUArgs: a.set("cpuArgs"), Patience: wait, Network: a.network(ctx, st),
	}
	if err := a.vmSettings(&o); err != nil {
		return nil, err
	}
	vms := vm.New(st, images, o)
	if err := vms.CheckRunFolder(); err != nil {
		return nil, err
	}
	cacheCap, err := a.cacheCap()
	if err := errors.Join(err, a.checkCacheAhead()); err != nil {
		return nil, err
	}
	r := &rooms{
		store: st, images: images, vms: vms,
		saver: &capture.Saver{Store: st, VMs: vms, Guard: chsnap.GuardCommand{Argv: []string{self, guardVerb}, Stderr: a.stderr}},
		restore: &restore.Engine{
			Store: st, VMs: vms, Images: images, CacheCap: store.CacheAtMost(cacheCap),
			Host: func(ctx context.Context) (restore.Host, error) {
				h, err := restore.ReadHost(ctx, binary)
				return h, hintInstall(err)
			},
		},
	}
	r.hypervisor = &hypervisor.Hypervisor{
		Store: st, VMs: vms, Saver: r.saver, Restorer: r.restore,
		Guard: func(ctx context.Context, id string) (func(), error) { return a.startRescue(ctx, wait, self, id) },
	}
	a.rescue(ctx, r)
	if !a.examines {
		a.keepAll(ctx, r)
	}
	return r, nil
}

// vmSettings are those of how VMs run.
func (a *app) vmSettings(o *vm.Options) (err error) {
	if o.StopTimeout, err = parseDuration("vmStopTimeout", a.set("vmStopTimeout")); err != nil {
		return err
	}
	switch o.Confine = vm.Confinement(a.set("vmLandlock")); o.Confine {
	case vm.ConfinedIfPossible, vm.Confined, vm.Unconfined:
	default:
		return failure.New(failure.Usage, "vmLandlock %q: auto, on or off", o.Confine)
	}
	if o.Scopes, err = a.scopes(); err != nil {
		return err
	}
	if o.SerialLogMax, err = parseSize("serialLogMax", a.set("serialLogMax")); err != nil {
		return err
	}
	if o.SerialLogMax < keeper.MinLogMax {
		return failure.New(failure.Usage, "serialLogMax %q: at least %s", a.set("serialLogMax"), size(keeper.MinLogMax))
	}
	o.OOMScoreAdj, err = strconv.Atoi(a.set("vmmOOMScoreAdj"))
	if err != nil || o.OOMScoreAdj < -1000 || o.OOMScoreAdj > 1000 {
		return failure.New(failure.Usage, "vmmOOMScoreAdj %q: -1000 to 1000, or 0 to leave it as it is", a.set("vmmOOMScoreAdj"))
	}
	return nil
}

// scopes are the settings of the VMMs' cgroups.
func (a *app) scopes() (s vm.Scopes, err error) {
	switch s.Kind = vm.Scoping(a.set("vmScope")); s.Kind {
	case vm.ScopedIfPossible, vm.Scoped, vm.Unscoped:
	default:
		return s, failure.New(failure.Usage, "vmScope %q: auto, on or off", s.Kind)
	}
	if v := a.set("vmMemoryOverhead"); v != "none" {
		if s.MemoryOverhead, err = parseSize("vmMemoryOverhead", v); err != nil {
			return s, err
		}
		if s.MemoryOverhead < minMemoryOverhead {
			return s, failure.New(failure.Usage, "vmMemoryOverhead %q: at least %s, or none for no bound", v, size(minMemoryOverhead))
		}
	}
	s.CPUWeight, err = strconv.Atoi(a.set("vmCPUWeight"))
	if err != nil || s.CPUWeight < 1 || s.CPUWeight > 10000 {
		return s, failure.New(failure.Usage, "vmCPUWeight %q: 1 to 10000", a.set("vmCPUWeight"))
	}
	return s, nil
}

// minMemoryOverhead is more than any VMM was seen to have beside its guest's RAM.
const minMemoryOverhead = 64 << 20

// patience is vmmTimeout.
func (a *app) patience() (patience.Patience, error) {
	d, err := parseDuration("vmmTimeout", a.set("vmmTimeout"))
	return patience.Patience(d), err
}

// network is the host's: where conflists and plugins are, and where the records
// of what was attached are kept.
func (a *app) network(ctx context.Context, st *store.Store) network.Host {
	me, _ := st.Owner(ctx)  // a store that cannot say who it is owns nothing
	wait, _ := a.patience() // who opens the rooms has refused one that cannot be read
	return network.Host{
		Owner: me, Patience: wait,
		CacheDir: st.Path("network"),
		ConfDirs: a.config["cniConfDir"].List, PluginDirs: a.config["cniBinDir"].List,
	}
}

// rescue lets guests go on whose capture or exchange died together with its
// guard. That it could not is told, but is no reason to refuse the command at
// hand.
func (a *app) rescue(ctx context.Context, r *rooms) {
	names, err := r.vms.Rescue(ctx, r.wake)
	for _, name := range names {
		a.log.Warn("a guest that a command which died had left paused or put aside goes on", "vm", name)
	}
	if err != nil {
		a.log.Warn("a guest left paused or put aside could not go on", "error", oneLine(err))
	}
}

// keepAll gives a keeper to VMs that have lost theirs. They run as well without.
func (a *app) keepAll(ctx context.Context, r *rooms) {
	ids, err := r.vms.Keep(ctx)
	for _, id := range ids {
		a.log.Warn("a VM without a keeper has one again", "vm", id)
	}
	if err != nil {
		a.log.Warn("a VM has no keeper: its logs have no bound, and nobody will know how it ends", "error", oneLine(err))
	}
}

// wake lets a VM that was put aside go on. It ran on this host a moment ago.
func (r *rooms) wake(ctx context.Context, rec *vm.Record) error {
	return r.restore.WakeLocked(ctx, rec, restore.Request{AllowIncompatible: true})
}

// vmmBuild asks the binary: "cloud-hypervisor v53.0-12-g…" → "53.0-12-g…".
func vmmBuild(ctx context.Context, binary string) (string, error) {
	build, err := chsnap.AskBuild(ctx, binary)
	return strings.TrimPrefix(build, "v"), hintInstall(err)
}

func hintInstall(err error) error {
	if errors.Is(err, failure.NotFound) {
		return failure.Hint(err, "put cloud-hypervisor on PATH or set hypervisor in "+config.DefaultFile)
	}
	return err
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

// eachAtOnce is each for what waits more than it works.
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
