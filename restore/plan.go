// Package restore rebuilds a fresh virtual machine from any snapshot, after
// the source VM is gone.
//
// A [Plan] is made first and changes nothing: every foreseeable refusal (missing
// or damaged objects, documents that could not be rewritten, VMM version,
// processor, name, address, space) is made there, and it can be printed. First
// everything is read, once: the snapshot ([subject]) and the host ([findings]);
// then a function that touches nothing decides (planOf). [Engine.ApplyAll] runs
// numbered steps, each with its undo:
//
//	1 reserve   id, folders; a journal that names them
//	2 network   netns, devices, addresses: kept, fresh or none; TAPs are up
//	3 disks     page maps → sparse files, verified page by page
//	4 memory    copy: a CH snapshot folder; map: the materialised cache file;
//	            stream: nothing yet
//	5 launch    a VMM process with its own API socket, in the VM's netns
//	6 load      vm.restore; stream: the pages are pushed into the VMM
//	7 resume    unless the caller wants it paused
//	8 announce  who is where, to the network and to a guest that must know
//	9 record    the VM exists from here on
//
// Several VMs are made in parallel and meet twice: none continues to step 7
// before all have done step 6, and all are recorded at once. A failing step
// undoes those before it, last first, of every VM. A crash leaves the journals;
// [Engine.Recover], which gc runs, finishes the undoing.
//
// Invariants: no VM record before the guest is loaded; no journal left after a
// success or a clean failure; nothing in an imported snapshot becomes a path on
// this host except through chsnap's allow-list.
package restore

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// Request says which snapshot becomes which VM.
type Request struct {
	Snapshot          string // reference
	Name              string // of the new VM
	Mode              Mode   // "" is Auto
	Clones            int    // how many VMs are made from the snapshot at once; 0 is one
	Cold              bool   // boot from the disks, leave the RAM
	Paused            bool   // do not resume
	AllowIncompatible bool
	Clock             GuestClock // "" is CatchUp
	Networks          []Wish     // empty: the default; one: for every interface; else one each
	// OnNetwork is called with how each interface of a woken VM will be attached,
	// if Networks is set; may be nil.
	OnNetwork func(NetworkPlan)
	OnBytes   func(done, total int64) // progress of what is read; may be nil

	ownDisks bool // the VM has its disks and interfaces already
}

// Plan is what Apply will do. It is plain data: print it as JSON.
type Plan struct {
	SnapshotID store.ID `json:"snapshot"`
	Name       string   `json:"name"`
	Mode       Mode     `json:"mode"`
	Why        string   `json:"why"` // why this mode
	// Ahead says that further clones could be mapped, so making the file is
	// worthwhile.
	Ahead  bool `json:"ahead"`
	Paused bool `json:"paused"`
	// Clock is "" if no RAM is loaded.
	Clock       GuestClock `json:"guestClock,omitempty"`
	MemoryBytes int64      `json:"memoryBytes"` // as the guest sees them
	DiskBytes   int64      `json:"diskBytes"`
	// NeedBytes is what this VM may take of the store's file system, without
	// pages of zeros; SharedBytes what all VMs made at once take in addition.
	// FreesBytes is how much unused RAM the cache removes for it.
	NeedBytes   int64 `json:"needBytes"`
	SharedBytes int64 `json:"sharedBytes,omitempty"`
	// FreesBytes is how much RAM that nobody uses the cache gives up for it.
	FreesBytes int64    `json:"freesBytes,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`

	Networks []NetworkPlan `json:"networks,omitempty"`

	*subject
	disks   []sized // that are written for the VM
	dropTSC bool    // the guest's counter runs at this host's rate
	onBytes func(done, total int64)
}

// The engine's dependencies have aliases in this package, so that its signatures
// need no other names: VM is the record of one, Network an interface of it; VMs
// manages them, and is made by the code that wires all packages.
type (
	VM      = vm.Record
	Network = vm.Network
	VMs     = vm.Manager
)

// Images holds the read-only files of VMs.
type Images interface {
	Path(d digest.Digest) string
}

// Engine applies plans.
type Engine struct {
	Store  *store.Store
	VMs    *VMs
	Images Images
	// Host reads the facts about this host; see ReadHost.
	Host     func(ctx context.Context) (Host, error)
	CacheCap ramcache.Cap // limit of the raw RAM files in the cache
}

// complete refuses an Engine with missing fields.
func (e *Engine) complete() error {
	if e.Store == nil || e.VMs == nil || e.Images == nil {
		return failure.New(failure.Usage, "restore.Engine needs Store, VMs and Images")
	}
	return nil
}

// NewPlan reads the snapshot and refuses whatever cannot work. It holds nothing
// and changes nothing: what has to make room is in the plan, and does so when it
// is applied.
func (e *Engine) NewPlan(ctx context.Context, r Request) (*Plan, error) {
	if err := e.complete(); err != nil {
		return nil, err
	}
	if e.Host == nil && r.needsHost() {
		return nil, failure.New(failure.Usage, "restore.Engine needs Host, such as ReadHost, to load RAM")
	}
	ctx, stop := context.WithCancel(ctx)
	host := sync.OnceValues(func() (Host, error) { return e.Host(ctx) })
	if r.needsHost() {
		go host()    // it takes longer than the rest
		defer host() // no process is left behind
	}
	defer stop()
	id, err := e.Store.Resolve(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	if r.Name != "" {
		if err := e.VMs.CheckName(ctx, r.Name); err != nil {
			return nil, err
		}
	}
	for {
		sn, err := e.Store.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		p, err := e.plan(ctx, r, sn, host)
		if err == nil || e.Store.Current(sn) {
			return p, err
		}
		// The snapshot was replaced or removed while we read what it names.
	}
}

// needsHost: the VMM will load the RAM of the snapshot.
func (r Request) needsHost() bool { return !r.Cold }

// plan reads the facts and makes the plan. host waits for the VMM's answer.
func (e *Engine) plan(ctx context.Context, r Request, sn *store.Snapshot, host func() (Host, error)) (*Plan, error) {
	s, err := e.read(ctx, sn)
	if err != nil {
		return nil, err
	}
	f, err := e.find(ctx, r, s, host)
	if err != nil {
		return nil, err
	}
	return planOf(r, s, f)
}

// planOf makes the plan from a snapshot as it was read, or refuses. It touches
// nothing.
func planOf(r Request, s *subject, f findings) (*Plan, error) {
	p := outline(r, s, f)
	if err := p.decide(r, f); err != nil {
		return nil, err
	}
	return p, nil
}

// outline is a plan without any decision.
func outline(r Request, s *subject, f findings) *Plan {
	p := &Plan{
		subject: s, SnapshotID: s.snapshot.ID, Name: r.Name, Paused: r.Paused, MemoryBytes: s.ram.bytes,
		Networks: f.networks, onBytes: r.OnBytes,
	}
	if !r.ownDisks {
		p.disks = s.sizes
	}
	for _, d := range p.disks {
		p.DiskBytes += d.bytes
	}
	return p
}

// NewPlans plans one VM for each name, all from one snapshot, which is read once.
func (e *Engine) NewPlans(ctx context.Context, r Request, names []string) ([]*Plan, error) {
	var plans []*Plan
	for i, name := range names {
		if i == 0 {
			r.Name, r.Clones = name, len(names)
			p, err := e.NewPlan(ctx, r)
			if err != nil {
				return nil, err
			}
			plans = append(plans, p)
			continue
		}
		p := *plans[0]
		p.Name = name
		plans = append(plans, &p)
	}
	return plans, e.VMs.CheckNames(ctx, names)
}
