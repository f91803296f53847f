// Package cocoon saves, rebuilds and collects Cloud Hypervisor microVMs. It is the
// front door for Go programs; the command of the same name is the other one, and
// both work on the same store at the same time.
//
//	host, err := cocoon.Open(ctx, cocoon.Options{})
//	if err != nil { … }
//	sn, err := host.Save(ctx, "web", cocoon.SaveOptions{Name: "before-upgrade"})
//	vms, err := host.Clone(ctx, sn.ID, []string{"ci-1", "ci-2"}, cocoon.RestoreOptions{})
//
// # Words
//
// A [Host] is one store of snapshots and one folder of running VMs on this machine.
// A [VM] is a virtual machine that the store knows, whether it runs or not. A
// [Snapshot] is its RAM, devices and disks at one instant, kept without regard to
// what becomes of the VM. Either is named by a ref: its name, its id, or the first
// digits of its id where no other begins so.
//
// # What a call promises
//
// A call is done when it returns, and durable. One that fails leaves nothing of what
// it began; a program that is killed in the middle leaves nothing that the next
// call, of any process, does not undo, and no guest standing still. So there is
// nothing to close. All calls may be made by several goroutines and by several
// processes at once. VMs live on when the program ends; while it lives it holds a
// pipe and a goroutine for each VMM that it started, until that ends. A context that is cancelled ends a call early, with the error
// of the context, and what was begun is undone first.
//
// # Errors
//
// errors.Is tells the class of an error: [NotFound], [Conflict] and so on, those of
// the exit codes in docs/cli.md. An error that has no class is a failure of
// something beneath, such as the disk. The verb %+v adds what can be done about it,
// where that is known.
//
// # Processes
//
// A guest must not depend on the program that saves it. So a VMM has a keeper
// beside it, and a guest that stands still for a capture has a guard: processes of
// the cocoon binary, which [Options].Program names. The guard also ends a program
// that is stopped (SIGSTOP, a debugger) while a guest waits for it: by SIGTERM, then
// by SIGKILL.
//
// Root is needed, and Linux. docs/library.md has the whole in one page.
package cocoon

import (
	"context"
	"log/slog"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// The classes of errors that a caller branches on, as errors.Is(err,
// cocoon.NotFound).
var (
	Usage        = failure.Usage        // the call cannot be meant so: a bad name, an unknown mode
	NotFound     = failure.NotFound     // no such VM, snapshot, store or program
	Conflict     = failure.Conflict     // in use, already exists, or in the wrong state
	Damaged      = failure.Damaged      // bytes of the store are not what they were
	Incompatible = failure.Incompatible // VMM version, processor, device or format
	Busy         = failure.Busy         // another process holds what is needed: try again
	NoSpace      = failure.NoSpace      // refused before anything was touched, or undone
)

// Hypervisor is all that a caller needs who saves VMs and rebuilds them and asks
// for nothing else. A [Host] is one.
type Hypervisor interface {
	// Snapshot saves the VM that ref names. It goes on; name, which may be empty,
	// is that of the snapshot.
	Snapshot(ctx context.Context, ref, name string) error
	// Restore makes a running VM called name of the snapshot that ref names.
	Restore(ctx context.Context, ref, name string) (*VM, error)
}

var _ Hypervisor = (*Host)(nil)

// Options of [Open]. The zero value is the store that the command works on here:
// whatever is not given is taken from where the command takes it, that is
// $COCOON_…, then the configuration file, then the default (docs/cli.md).
type Options struct {
	RootDir    string // the store; /var/lib/cocoon
	RunDir     string // sockets and logs of running VMs; /run/cocoon
	Hypervisor string // the VMM; cloud-hypervisor, on PATH
	KeyFile    string // encrypts what is saved
	ConfigFile string // $COCOON_CONFIG, /etc/cocoon/config.yaml
	// Settings are any others by their keys in the configuration file, as
	// {"vmmTimeout": "60s", "cacheMaxBytes": "4G"}.
	Settings map[string]string

	// Program is the path of the cocoon binary, of the version that this package
	// is of; "": cocoon, on PATH.
	Program string
	// Create makes the store where there is none. Otherwise that is NotFound: a
	// mistyped folder, or one whose disk is not mounted, does not become a store.
	Create bool
	// Log hears of what is no error and worth telling: a guest that was let go on,
	// a lock that is waited for, a way that was taken because a better one was not
	// to be had. nil is slog.Default().
	Log *slog.Logger
	// Progress is told how far a call is, in bytes, from any goroutine. what is
	// saving, suspending, restoring, pushing, pulling, exporting or importing; ref is
	// the VM or snapshot as the call named it. nil: nobody is told.
	Progress func(what, ref string, done, total int64)
}

// Host is an open store with its VMs. It holds no lock between two calls, and need
// not be closed.
type Host struct {
	house    *house.House
	log      *slog.Logger
	progress func(what, ref string, done, total int64)
	settings house.Settings
}

// Open opens the store and what runs on it. Guests that a program which died had
// left standing still go on from here.
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
