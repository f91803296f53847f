// Package cocoon saves, rebuilds and collects Cloud Hypervisor microVMs. It is
// the Go API; it works on the same store as the command of the same name, at the
// same time.
//
//	host, err := cocoon.Open(ctx, cocoon.Options{})
//	if err != nil { … }
//	sn, err := host.Save(ctx, "web", cocoon.SaveOptions{Name: "before-upgrade"})
//	vms, err := host.Clone(ctx, sn.ID, []string{"ci-1", "ci-2"}, cocoon.RestoreOptions{})
//
// # Words
//
// A [Host] is one store of snapshots and one folder of running VMs on this
// machine. A [VM] is a virtual machine of the store, running or not. A [Snapshot]
// is its RAM, devices and disks at one instant, independent of the VM. Both are
// named by a ref: the name, the id, or a unique prefix of the id.
//
// # What a call promises
//
// When a call returns, its work is done and durable. A failed call leaves nothing
// behind; if the program is killed in the middle, the next call of any process
// undoes its work, and no guest stays paused. So there is nothing to close. Calls
// may be made by several goroutines and several processes at once. VMs live on
// when the program ends; while it runs it holds a pipe and a goroutine for each
// VMM it started, until that ends. A cancelled context ends a call early, with
// the error of the context, after undoing its work.
//
// # Errors
//
// errors.Is tests the class of an error: [NotFound], [Conflict] and so on,
// corresponding to the exit codes in docs/cli.md. An error without a class comes
// from a lower layer, such as the disk. The verb %+v adds the remedy, if there is
// one.
//
// # Processes
//
// A guest must not depend on the program that saves it. So each VMM has a keeper,
// and a guest that is paused for a capture has a guard: processes of the cocoon
// binary, named by [Options].Program. The guard also ends a program that is
// stopped (SIGSTOP, a debugger) while a guest is paused for it: by SIGTERM, then
// by SIGKILL.
//
// The package needs root and Linux. docs/library.md has everything on one page.
package cocoon

import (
	"context"
	"log/slog"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// The classes of errors, for errors.Is(err, cocoon.NotFound).
var (
	Usage        = failure.Usage        // an invalid argument: a bad name, an unknown mode
	NotFound     = failure.NotFound     // no such VM, snapshot, store or program
	Conflict     = failure.Conflict     // in use, already exists, or in the wrong state
	Damaged      = failure.Damaged      // bytes of the store are not what they were
	Incompatible = failure.Incompatible // VMM version, processor, device or format
	Busy         = failure.Busy         // another process holds what is needed: retry
	NoSpace      = failure.NoSpace      // refused before anything was touched, or undone
)

// Hypervisor is the interface for callers that only save and rebuild VMs. [Host]
// implements it.
type Hypervisor interface {
	// Snapshot saves the VM named by ref, which keeps running; name is the name
	// of the snapshot and may be empty.
	Snapshot(ctx context.Context, ref, name string) error
	// Restore makes a running VM called name from the snapshot named by ref.
	Restore(ctx context.Context, ref, name string) (*VM, error)
}

var _ Hypervisor = (*Host)(nil)

// Options of [Open]. The zero value opens the same store as the command: missing
// values come from the same places, $COCOON_…, then the configuration file, then
// the default (docs/cli.md).
type Options struct {
	RootDir    string // the store; /var/lib/cocoon
	RunDir     string // sockets and logs of running VMs; /run/cocoon
	Hypervisor string // the VMM; cloud-hypervisor, on PATH
	KeyFile    string // encrypts new snapshots
	ConfigFile string // $COCOON_CONFIG, /etc/cocoon/config.yaml
	// Settings sets any other settings by their keys in the configuration file,
	// such as {"vmmTimeout": "60s", "cacheMaxBytes": "4G"}.
	Settings map[string]string

	// Program is the path of the cocoon binary, which must be of the version of
	// this package; "": cocoon, on PATH.
	Program string
	// Create creates the store if there is none. Otherwise a missing store is
	// NotFound, so that a mistyped folder, or one whose disk is not mounted, does
	// not become one.
	Create bool
	// Log receives messages that are no errors: a guest that had to be resumed, a
	// lock that is waited for, a fallback that was taken. nil is slog.Default().
	Log *slog.Logger
	// Progress receives the progress of a call in bytes, from any goroutine. what
	// is saving, suspending, restoring, pushing or pulling; ref is the VM or
	// snapshot as named in the call. May be nil.
	Progress func(what, ref string, done, total int64)
}

// Host is an open store with its VMs. It holds no lock between two calls, and
// need not be closed.
type Host struct {
	house    *house.House
	log      *slog.Logger
	progress func(what, ref string, done, total int64)
	settings house.Settings
}

// Open opens the store and its VMs. Guests that a dead program left paused are
// resumed.
func Open(ctx context.Context, o Options) (host *Host, err error) {
	defer classed(&err)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	h := &Host{log: o.Log, progress: o.Progress}
	if h.settings, err = o.settle(); err != nil {
		return nil, err
	}
	if err := h.settings.Check(); err != nil {
		return nil, err
	}
	ctx = h.patient(ctx)
	program, err := house.FindProgram(ctx, o.Program)
	if err != nil {
		return nil, err
	}
	h.house, err = house.Open(ctx, house.Options{Settings: h.settings, Program: program, Create: o.Create, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return h, nil
}
