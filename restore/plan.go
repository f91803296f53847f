// Package restore rebuilds a fresh virtual machine from any snapshot, after
// the source VM is gone.
//
// A [Plan] is made first and changes nothing: every refusal that can be
// foreseen (missing or damaged objects, VMM version, CPU flags, name, address,
// space)
// is made there, and it can be printed. [Engine.ApplyAll] then runs numbered
// steps, each with its undo:
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
// Several VMs are made side by side and meet twice: none goes on to step 7
// before all have done step 6, and all are recorded at once. A failing step
// undoes those before it, last first, of every VM. A crash leaves the journals;
// [Engine.Recover], which gc runs, finishes the undoing.
//
// Invariants: no VM record before the guest is loaded; no journal left after a
// success or a clean failure; nothing that an imported snapshot says becomes a
// path on this host except through chsnap's allow-list.
package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/image"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// Request says which snapshot becomes which VM.
type Request struct {
	Snapshot          string // reference
	Name              string // of the new VM
	Mode              Mode   // "" is Auto
	Clones            int    // how many VMs are made of the snapshot at once; 0 is one
	Cold              bool   // boot from the disks, leave the RAM
	Paused            bool   // do not resume
	AllowIncompatible bool
	Networks          []Wish // none: by default; one: for every interface; else one each

	ownDisks bool // the VM has its disks and interfaces already
	export   bool // no VM is made: no host, network, mode or room in the store is asked for
}

// Plan is what Apply will do. It is plain data: print it as JSON.
type Plan struct {
	SnapshotID store.ID `json:"snapshot"`
	Name       string   `json:"name"`
	Mode       Mode     `json:"mode"`
	Why        string   `json:"why"` // why this mode
	// Ahead says that further clones could be mapped: worth making the file for.
	Ahead       bool     `json:"ahead"`
	Paused      bool     `json:"paused"`
	MemoryBytes int64    `json:"memoryBytes"`
	DiskBytes   int64    `json:"diskBytes"`
	Warnings    []string `json:"warnings,omitempty"`

	Networks []NetworkPlan `json:"networks,omitempty"`

	snapshot   *store.Snapshot
	source     *vm.Blueprint
	config     *chsnap.Config
	state      *chsnap.State
	vmmVersion string
}

// Engine applies plans.
type Engine struct {
	Store  *store.Store
	VMs    *vm.Manager
	Images *image.Store
	// VMMVersion asks the installed VMM for its version, e.g. "53.0.0".
	VMMVersion func(ctx context.Context) (string, error)
	OnBytes    func(done, total int64) // progress of materialising; may be nil
	// CacheMaxBytes is what the raw RAM files of the cache may occupy; negative
	// is no limit.
	CacheMaxBytes int64
}

// NewPlan reads the snapshot and refuses whatever cannot work. It holds
// nothing and changes nothing, except that the cache gives up files that nobody
// uses where space is short.
func (e *Engine) NewPlan(ctx context.Context, r Request) (*Plan, error) {
	ctx, stop := context.WithCancel(ctx)
	version := sync.OnceValues(func() (string, error) { return e.VMMVersion(ctx) })
	if r.needsHost() {
		go version()    // it takes longer than the rest
		defer version() // no process is left behind
	}
	defer stop()
	id, err := e.Store.Resolve(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	for {
		sn, err := e.Store.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		p, err := e.planOf(ctx, r, sn, version)
		if err == nil || e.Store.Current(sn) {
			return p, err
		}
		// The snapshot was replaced or removed while we looked at what it named.
	}
}

// needsHost: the VMM is going to load what the snapshot has.
func (r Request) needsHost() bool { return !r.Cold && !r.export }

// planOf makes the plan of the snapshot as it was read. version waits for the
// VMM's answer.
func (e *Engine) planOf(ctx context.Context, r Request, sn *store.Snapshot, version func() (string, error)) (*Plan, error) {
	if err := sn.Usable(); err != nil {
		return nil, err
	}
	if err := e.Store.Unlock(ctx, sn); err != nil {
		return nil, err
	}
	if r.Name != "" {
		if err := e.VMs.CheckName(ctx, r.Name); err != nil {
			return nil, err
		}
	}
	p := &Plan{SnapshotID: sn.ID, Name: r.Name, Paused: r.Paused, snapshot: sn}
	if err := e.checkObjects(ctx, sn); err != nil {
		return nil, err
	}
	if err := e.readBlueprint(ctx, p, sn); err != nil {
		return nil, err
	}
	p.count()
	if r.export {
		return p, nil
	}
	if r.ownDisks {
		p.DiskBytes = 0
	} else if err := e.planNetworks(p, r); err != nil {
		return nil, err
	}
	if r.needsHost() {
		var err error
		if p.vmmVersion, err = version(); err != nil {
			return nil, err
		}
		if err := p.checkHost(r.AllowIncompatible); err != nil {
			return nil, err
		}
	}
	if err := e.chooseMode(p, r); err != nil {
		return nil, err
	}
	return p, e.requireSpace(ctx, p)
}

// requireSpace: a stream needs none for RAM, nor does a map whose file is there.
// For a new file the cache gives up others first.
func (e *Engine) requireSpace(ctx context.Context, p *Plan) error {
	switch {
	case p.Mode == Stream, p.Mode == Cold, p.Mode == Map && e.cached(p.snapshot):
		return e.Store.Require(p.DiskBytes)
	case p.Mode == Copy:
		return e.Store.Require(p.DiskBytes + p.MemoryBytes)
	}
	ram, err := e.storedRAM(ctx, p.snapshot)
	if err != nil {
		return err
	}
	err = e.Store.Require(p.DiskBytes + ram)
	if !errors.Is(err, failure.NoSpace) {
		return err
	}
	if terr := e.Store.TrimCache(ctx, 0); terr != nil {
		return errors.Join(err, terr)
	}
	return e.Store.Require(p.DiskBytes + ram)
}

// NewPlans plans one VM for each name, all of one snapshot, which is looked at
// once.
func (e *Engine) NewPlans(ctx context.Context, r Request, names []string) ([]*Plan, error) {
	var plans []*Plan
	for i, name := range names {
		if i == 0 {
			r.Name = name
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
	if err := e.Store.Require(int64(len(plans)) * plans[0].DiskBytes); err != nil {
		return nil, err
	}
	return plans, e.VMs.CheckNames(ctx, names)
}

func (p *Plan) count() {
	for _, m := range p.snapshot.Spec.Memory {
		p.MemoryBytes += int64(m.Bytes)
	}
	for _, d := range p.snapshot.Spec.Disks {
		if d.Image == "" {
			p.DiskBytes += d.Bytes
		}
	}
}

// checkObjects looks whether every object the snapshot names is there.
func (e *Engine) checkObjects(ctx context.Context, sn *store.Snapshot) error {
	rep, err := e.Store.Verify(ctx, []store.ID{sn.ID}, store.VerifyOptions{})
	if err != nil {
		return err
	}
	if len(rep.Damaged) > 0 {
		d := rep.Damaged[0]
		return failure.New(failure.Damaged, "snapshot %s is damaged: %s: want %s, got %s", sn.ID, d.Object, d.Want, d.Got)
	}
	for _, im := range sn.Spec.Images {
		if _, err := os.Stat(e.Images.Path(im.Digest)); err != nil {
			return failure.New(failure.Damaged, "snapshot %s needs image blob %s (%s): %w", sn.ID, im.Digest, im.Role, err)
		}
	}
	return nil
}

// checkHost compares the VMM's major version and the CPU's flags with those
// at capture: Cloud Hypervisor supports neither difference.
func (p *Plan) checkHost(allow bool) error {
	var wrong []string
	if want := p.snapshot.Spec.Hypervisor.Version; want != "" && chsnap.Major(want) != chsnap.Major(p.vmmVersion) {
		wrong = append(wrong, fmt.Sprintf("snapshot was made by Cloud Hypervisor %s, this host has %s", want, p.vmmVersion))
	}
	if missing := missingFlags(p.snapshot.Spec.Host.CPUFlags, hostFlags()); len(missing) > 0 {
		wrong = append(wrong, "this CPU lacks "+strings.Join(missing, " "))
	}
	if len(wrong) == 0 {
		return nil
	}
	if allow {
		p.Warnings = append(p.Warnings, wrong...)
		return nil
	}
	return failure.Hint(failure.New(failure.Incompatible, "snapshot %s: %s", p.SnapshotID, strings.Join(wrong, "; ")),
		"--allow-incompatible tries all the same, --cold boots from the disks")
}

func missingFlags(want, have []string) []string {
	var missing []string
	for _, f := range want {
		if !slices.Contains(have, f) {
			missing = append(missing, f)
		}
	}
	return missing
}
