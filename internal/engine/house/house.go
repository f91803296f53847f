// Package house wires all packages over one store and one run folder: capture,
// restore, VMs, images, collection, transfer. Both the command line and package
// cocoon open it, so there is only one wiring.
//
// Words: the settings are those of docs/cli.md, with their final values; the
// program is the cocoon binary, from which helper processes are started
// (children.go); a house is open once the engines are set up on the store, and
// needs no closing, since it holds no lock and no descriptor between two calls.
//
// Besides the wiring it has the operations that need several packages: the verbs
// in which a VM keeps its identity (suspend and wake it, exchange its state for
// that of a snapshot, remove it with everything that exists only for it), updates
// of the derived index, applying a policy to the store, a collection with all its
// sources.
//
// Invariants:
//
//  1. A VM is given up for its replacement only once the replacement is complete,
//     or its own state is on disk.
//  2. Nothing here prints, or reads a setting from flags, files or the
//     environment.
//  3. Several goroutines may use a house at once: progress goes to the function
//     in each call.
package house

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/fingerprint"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Options of Open.
type Options struct {
	Settings Settings
	Program  string       // path of the cocoon binary, for its hidden verbs
	Create   bool         // a store if there is none
	Examines bool         // VMs without a keeper are only reported, and get none
	Log      *slog.Logger // messages that are no result
	Stderr   *os.File     // of guards, which outlive this process; may be nil
}

// House is an open house. Its engines may be used directly for operations that
// need only one of them.
type House struct {
	Store    *store.Store
	Images   *image.Store
	VMs      *vm.Manager
	Saver    *capture.Saver
	Restorer *restore.Engine

	o Options
}

// OpenStore opens the store alone. If there is none, and none is to be created, that
// is failure.NotFound: looking into a mistyped folder, or one whose disk is not
// mounted, does not turn it into a store.
func OpenStore(ctx context.Context, o Options) (*House, error) {
	if os.Geteuid() != 0 {
		return nil, failure.Hint(failure.New(failure.Usage, "cocoon must run as root"), "use sudo")
	}
	root, err := filepath.Abs(o.Settings.Of("rootDir"))
	if err != nil {
		return nil, err
	}
	so := store.Options{Create: o.Create, Veto: sleep.Veto, Keys: keyring.NewRing(o.Settings.Of("keyFile"))}
	if so.MaxBytes, err = o.Settings.maxBytes(); err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, root, so)
	if err != nil {
		return nil, err
	}
	ramcache.Follow(st)
	return &House{Store: st, o: o}, nil
}

func (o Options) fingerprints(ctx context.Context) (*fingerprint.Key, error) {
	run := runfolder.New(o.Settings.Of("runDir"), nil)
	if err := run.Ensure(); err != nil {
		return nil, err
	}
	return fingerprint.Load(ctx, run.Path())
}

// Open opens the store and the engines over it.
func Open(ctx context.Context, o Options) (*House, error) {
	h, err := OpenStore(ctx, o)
	if err != nil {
		return nil, err
	}
	return h, h.Engines(ctx)
}

// Engines completes a house of which only the store was opened, and resumes
// guests that a dead process left paused or put aside.
func (h *House) Engines(ctx context.Context) error {
	if h.Restorer != nil {
		return nil
	}
	vo := vm.Options{Keeper: keeper.Program(h.o.Program)}
	if err := h.o.Settings.vms(&vo); err != nil {
		return err
	}
	vo.Network = h.Network(ctx)
	h.Images = image.New(h.Store)
	h.VMs = vm.New(h.Store, h.Images, vo)
	if err := h.VMs.CheckRunFolder(); err != nil {
		return err
	}
	limit, err := h.o.Settings.cacheCap()
	if err := errors.Join(err, h.o.Settings.Check()); err != nil {
		return err
	}
	h.Saver = &capture.Saver{Store: h.Store, VMs: h.VMs, Guard: h.guardCommand(), Prints: h.o.fingerprints}
	h.Restorer = &restore.Engine{
		Store: h.Store, VMs: h.VMs, Images: h.Images, CacheCap: limit,
		Host: func(ctx context.Context) (restore.Host, error) {
			found, err := restore.ReadHost(ctx, vo.Binary)
			return found, hintInstall(err)
		},
	}
	h.rescue(ctx)
	if !h.o.Examines {
		h.KeepAll(ctx)
	}
	return nil
}

// Network holds the paths of conflists and plugins, and of the records of
// attachments.
func (h *House) Network(ctx context.Context) network.Host {
	me, _ := h.Store.Owner(ctx)        // a store without an identity owns nothing
	wait, _ := h.o.Settings.Patience() // opening the engines has already refused an unreadable one
	return network.Host{
		Owner: me, Patience: wait,
		CacheDir: h.Store.Path("network"),
		ConfDirs: h.o.Settings["cniConfDir"].List, PluginDirs: h.o.Settings["cniBinDir"].List,
	}
}

// rescue resumes guests whose capture or exchange died together with its guard. A
// failure is reported, but is no reason to refuse the present command.
func (h *House) rescue(ctx context.Context) {
	names, err := h.VMs.Rescue(ctx, h.wake)
	for _, name := range names {
		h.o.Log.Warn("a guest that a command which died had left paused or put aside goes on", "vm", name)
	}
	if err != nil {
		h.o.Log.Warn("a guest left paused or put aside could not go on", "error", oneLine(err))
	}
}

// RescueAfter is for the guard of a VM: the process it watched is gone.
func (h *House) RescueAfter(ctx context.Context, id string) error {
	return h.VMs.RescueAfter(ctx, id, h.wake)
}

// wake resumes a VM that was put aside. It ran on this host a moment ago.
func (h *House) wake(ctx context.Context, rec *vm.Record) error {
	return h.Restorer.WakeLocked(ctx, rec, restore.Request{AllowIncompatible: true})
}

// KeepAll starts keepers for VMs that have lost theirs. They run without one,
// too.
func (h *House) KeepAll(ctx context.Context) {
	ids, err := h.VMs.Keep(ctx)
	for _, id := range ids {
		h.o.Log.Warn("a VM without a keeper has one again", "vm", id)
	}
	if err != nil {
		h.o.Log.Warn("a VM has no keeper: its logs have no bound, and nobody will know how it ends", "error", oneLine(err))
	}
}

// VMMBuild asks the binary of the settings: "cloud-hypervisor v53.0-12-g…" →
// "53.0-12-g…".
func (s Settings) VMMBuild(ctx context.Context) (string, error) {
	build, err := chsnap.AskBuild(ctx, s.Of("hypervisor"))
	return strings.TrimPrefix(build, "v"), hintInstall(err)
}

func hintInstall(err error) error {
	if errors.Is(err, failure.NotFound) {
		return failure.Hint(err, "put cloud-hypervisor on PATH or set hypervisor in "+config.DefaultFile)
	}
	return err
}

func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}
