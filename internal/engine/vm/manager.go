package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/trash"
)

// Options of a Manager.
type Options struct {
	RunDir string
	Binary string // the VMM
	// Keeper is the program that runs keepers; "": none, so logs grow and ends
	// are not observed.
	Keeper keeper.Program
	// Confine says whether VMMs confine themselves to the files of their VM.
	Confine Confinement
	// SerialLogMax limits each log of a VM, bytes; 0 is keeper.DefaultLogMax.
	SerialLogMax int64
	OOMScoreAdj  int    // of VMMs; 0 leaves it as it is
	Scopes       Scopes // of VMMs
	CPUArgs      string // appended to --cpus boot=N
	// Patience limits every wait for a process.
	Patience patience.Patience
	// StopTimeout is how long a guest may take to power itself off; 0 is
	// DefaultStopTimeout.
	StopTimeout time.Duration
	// Network makes the interfaces; without a CacheDir, only TAPs of the operator
	// can be used.
	Network network.Host
}

// Manager manages the VMs of a store.
type Manager struct {
	st      *store.Store
	images  Images
	run     *runfolder.Folder
	o       Options
	rescued map[string]bool // ids of VMs that Rescue resumed
}

// New makes a Manager over a store.
func New(st *store.Store, images Images, o Options) *Manager {
	return &Manager{st: st, images: images, run: runfolder.New(o.RunDir, st.Owner), o: o, rescued: map[string]bool{}}
}

// Dir is a VM's durable folder.
func (m *Manager) Dir(id string) string { return m.st.Path("vms", id) }

// RunDir is a VM's folder of sockets and logs.
func (m *Manager) RunDir(id string) string { return m.run.Dir(id) }

// SerialPath is where the guest's serial output goes.
func (m *Manager) SerialPath(id string) string { return filepath.Join(m.RunDir(id), keeper.SerialLog) }

// MigrationSocket is where a VM sends itself in a live capture; it belongs to the
// holder of the VM's lock.
func (m *Manager) MigrationSocket(id string) string {
	return filepath.Join(m.RunDir(id), MigrationSocketFile)
}

// MigrationSocketFile is its name in a VM's run folder.
const MigrationSocketFile = "migration.sock"

// Patience limits every wait for a process.
func (m *Manager) Patience() patience.Patience { return m.o.Patience }

// Client talks to a VM's VMM.
func (m *Manager) Client(rec *Record) *chsnap.Client {
	if rec.Process == nil {
		return chsnap.NewClient(filepath.Join(m.RunDir(rec.ID), "none.sock"), m.o.Patience)
	}
	return chsnap.NewClient(rec.Process.APISocket, m.o.Patience)
}

// List reads every VM with its live state, by name.
func (m *Manager) List(ctx context.Context) ([]*Record, error) {
	entries, err := os.ReadDir(m.st.Path("vms"))
	if err != nil {
		return nil, fmt.Errorf("list VMs: %w", err)
	}
	var all []*Record
	for _, e := range entries {
		if !spelling.ID(e.Name()) {
			continue
		}
		rec, err := m.read(e.Name())
		if errors.Is(err, failure.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m.live(ctx, rec)
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b *Record) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Get finds a VM by name, id, or unique id prefix of at least three.
func (m *Manager) Get(ctx context.Context, ref string) (*Record, error) {
	all, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	if at := slices.IndexFunc(all, func(r *Record) bool { return r.Name == ref }); at >= 0 {
		return all[at], nil
	}
	return spelling.Find("VM", ref, all, func(r *Record) string { return r.ID })
}

// lockFile in a VM's folder is held by the verb that works on it.
const lockFile = "lock"

// Lock finds a VM and locks it for one verb; the record is read under the lock.
//
// A VM that runs elsewhere is failure.Conflict: its processes cannot be seen.
func (m *Manager) Lock(ctx context.Context, ref, verb string) (*Record, func(), error) {
	if err := checkProc(); err != nil {
		return nil, nil, err
	}
	rec, err := m.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := m.lock(ctx, rec.ID, verb)
	if err != nil {
		return nil, nil, err
	}
	if rec, err = m.read(rec.ID); err != nil {
		unlock()
		return nil, nil, err
	}
	m.live(ctx, rec)
	if err := m.changeable(rec.ID); err != nil {
		unlock()
		return nil, nil, err
	}
	if err := m.settle(ctx, rec); err != nil {
		unlock()
		return nil, nil, err
	}
	return rec, unlock, nil
}

func (m *Manager) lock(ctx context.Context, id, verb string) (func(), error) {
	wait, cancel := patience.Bound(ctx, m.o.Patience.Call())
	defer cancel()
	path := filepath.Join(m.Dir(id), lockFile)
	if _, err := os.Stat(m.Dir(id)); err != nil {
		return nil, failure.New(failure.NotFound, "no VM %s", id)
	}
	lock, err := filelock.Exclusive(wait, path)
	if err != nil {
		return nil, fmt.Errorf("VM %s: %w", id, explainBusy(err, path))
	}
	if err := lock.Note(verb); err != nil {
		lock.Unlock()
		return nil, err
	}
	return func() { lock.Unlock() }, nil
}

// CheckName refuses a name that is malformed or taken.
func (m *Manager) CheckName(ctx context.Context, name string) error {
	return m.CheckNames(ctx, []string{name})
}

// CheckNames is CheckName for several.
func (m *Manager) CheckNames(ctx context.Context, names []string) error {
	for _, name := range names {
		if !spelling.Name(name, nameLength) || spelling.ID(name) {
			return failure.New(failure.Usage, "VM name %q: 1 to 64 of letters, digits, '_', '.', '-', beginning with a letter or digit, and no id", name)
		}
	}
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if slices.Contains(names, r.Name) {
			return failure.New(failure.Conflict, "VM name %q is taken by %s", r.Name, r.ID)
		}
	}
	return nil
}

// Discard ends the VMM, if any, undoes the network and removes every folder of a
// VM. If its VMM lives and cannot be ended, nothing changes.
func (m *Manager) Discard(ctx context.Context, id string) error {
	if err := m.vacate(ctx, id, id); err != nil {
		return err
	}
	durable.Step("vm.discard.killed")
	if err := m.removeRooms(ctx, id); err != nil {
		return err
	}
	if err := m.Detach(ctx, id); err != nil {
		return err
	}
	if _, err := m.run.Remove(ctx, id, m.mayTake(ctx)); err != nil {
		return err
	}
	return m.bury(id)
}

// bury removes the durable folder of a VM. If the VM existed, rather than only
// being made, a trace is left.
func (m *Manager) bury(id string) error {
	dir := m.Dir(id)
	kind := "vm"
	if !exists(m.recordPath(id)) && !exists(m.SleepPath(id)) {
		kind = "creation"
	}
	trashed, err := m.st.Trash().Remove(kind, id, dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := durable.SyncParents(dir, trashed); err != nil {
		return fmt.Errorf("remove VM %s: %w", id, err)
	}
	durable.Step("vm.discard.trashed")
	if kind == "creation" {
		return os.RemoveAll(trashed)
	}
	return trash.Clear(trashed)
}

// RemoveOptions of Remove.
type RemoveOptions struct {
	Force bool // also one that runs
	// ForgetNetwork drops its network even if the plugins cannot undo it.
	ForgetNetwork bool
}

// Remove ends and removes a VM. It returns the VM as it was by then: the previous
// lock holder may have changed or suspended it.
func (m *Manager) Remove(ctx context.Context, ref string, o RemoveOptions) (*Record, error) {
	rec, unlock, err := m.Lock(ctx, ref, "vm rm")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Process != nil && !o.Force {
		return nil, failure.Hint(failure.New(failure.Conflict, "VM %s is %s", rec.Name, rec.State), "stop it first, or use "+hint.Force.Of())
	}
	if o.ForgetNetwork {
		if err := m.forgetNetwork(ctx, rec.ID); err != nil {
			return nil, err
		}
	}
	if err := m.Discard(ctx, rec.ID); err != nil {
		return nil, err
	}
	return rec, nil
}

// forgetNetwork undoes the network of a VM, or drops what cannot be undone.
func (m *Manager) forgetNetwork(ctx context.Context, id string) error {
	if err := m.Kill(ctx, id); err != nil {
		return err
	}
	if m.Detach(ctx, id) == nil {
		return nil
	}
	return m.o.Network.ForgetVM(ctx, id)
}
