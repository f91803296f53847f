// Package house is all rooms over one store and one run folder, wired: capture,
// restore, VMs, images, collection, transfer. Both doors of the project open it,
// the command line and package cocoon, so that there is one wiring.
//
// Words: the settings are those of docs/cli.md, already settled; the program is
// the cocoon binary, of which processes of their own are started (children.go); a
// house is open once the engines stand on the store, and needs no closing, since
// it holds no lock and no descriptor between two calls.
//
// Beside the wiring it has what takes several rooms: the verbs in which a VM keeps
// its identity (to suspend it and to let it go on, to exchange its state for that
// of a snapshot, to remove it with all that is only there for it), the derived
// index in step with all of them, a policy applied to the store, a collection with
// all its sources.
//
// Invariants:
//
//  1. A VM that is to become another one is given up only when what takes its
//     place is complete, or when its own state is on disk.
//  2. Nothing here prints, and no setting is read from flags, files or the
//     environment.
//  3. A house may be used by several goroutines at once: progress is told to whom
//     the call names.
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
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Options of Open.
type Options struct {
	Settings Settings
	Program  string       // path of the cocoon binary, for its hidden verbs
	Create   bool         // a store where there is none
	Examines bool         // VMs without a keeper are to be found, and are given none
	Log      *slog.Logger // what is worth telling but is no result
	Stderr   *os.File     // of guards, which outlive this process; may be nil
}

// House is an open one. Its engines may be used directly for what takes only one
// of them.
type House struct {
	Store    *store.Store
	Images   *image.Store
	VMs      *vm.Manager
	Saver    *capture.Saver
	Restorer *restore.Engine

	o     Options
	index *refs.DB
}

// OpenStore opens the store alone, with the derived index following every commit
// and removal. Where there is none, and none is to be made, that is
// failure.NotFound: a mistyped folder, or one whose disk is not mounted, does not
// become a store because somebody looked into it.
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
	h := &House{Store: st, o: o, index: refs.New(st.Path("refs.db"), refs.Options{})}
	h.follow()
	return h, nil
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

// Engines completes a house of which only the store was opened, and lets guests
// go on that a process which died had left paused or put aside.
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

// Network is where conflists and plugins are, and where the records of what was
// attached are kept.
func (h *House) Network(ctx context.Context) network.Host {
	me, _ := h.Store.Owner(ctx)        // a store that cannot say who it is owns nothing
	wait, _ := h.o.Settings.Patience() // who opens the engines has refused one that cannot be read
	return network.Host{
		Owner: me, Patience: wait,
		CacheDir: h.Store.Path("network"),
		ConfDirs: h.o.Settings["cniConfDir"].List, PluginDirs: h.o.Settings["cniBinDir"].List,
	}
}

// rescue lets guests go on whose capture or exchange died together with its
// guard. That it could not is told, but is no reason to refuse what is asked for.
func (h *House) rescue(ctx context.Context) {
	names, err := h.VMs.Rescue(ctx, h.wake)
	for _, name := range names {
		h.o.Log.Warn("a guest that a command which died had left paused or put aside goes on", "vm", name)
	}
	if err != nil {
		h.o.Log.Warn("a guest left paused or put aside could not go on", "error", oneLine(err))
	}
}

// RescueAfter is for the guard of a VM: what that watched is gone.
func (h *House) RescueAfter(ctx context.Context, id string) error {
	return h.VMs.RescueAfter(ctx, id, h.wake)
}

// wake lets a VM that was put aside go on. It ran on this host a moment ago.
func (h *House) wake(ctx context.Context, rec *vm.Record) error {
	return h.Restorer.WakeLocked(ctx, rec, restore.Request{AllowIncompatible: true})
}

// KeepAll gives a keeper to VMs that have lost theirs. They run as well without.
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
