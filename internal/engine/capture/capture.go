// Package capture turns a running virtual machine, or a Cloud Hypervisor
// snapshot folder made by hand, into a published snapshot.
//
// Here chsnap (which knows the VMM but not the store) meets store (which does not
// know the VMM). The order of one capture:
//
//	lease → lock the VM → preflight (name, space, devices, mode: nothing touched)
//	live:  RAM into packs while the guest runs → pause, its last pages and
//	       devices, clone disks → the VMM resumes         the only pause
//	file:  pause → vm.snapshot → clone disks → resume     the only pause
//	→ what is not in packs yet, beside the parent's pages
//	→ commit                                              the only publish
//
// Invariants: every foreseeable refusal happens before the pause; the VM runs
// again whatever fails later; staged RAM never outlives the command (the guard
// removes it if the command is killed, gc if even that failed); live captures
// stage no RAM but what the guest changed meanwhile.
package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/prints"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Saver makes snapshots. The zero value of Guard starts no guard process.
type Saver struct {
	Store  *store.Store
	VMs    *vm.Manager
	Guard  chsnap.GuardCommand
	Prints prints.Key // nil: every page is hashed
}

// Request says what to save and how.
type Request struct {
	VM          string // reference of the running VM
	Name        string // may be empty
	Description string
	Labels      map[string]string
	Expires     *time.Time
	Protect     bool
	Replace     bool   // takes the name from an older snapshot once the new one is published
	Parent      string // "auto" (or empty), "none" or a snapshot reference
	Mode        string // Auto (or empty), Live or File
	DryRun      bool
	// OnNote receives, before anything is paused, what the operator should know:
	// why auto is not live. May be nil.
	OnNote  func(text string)
	OnBytes func(done, total int64) // progress of the packing; may be nil

	Aside bool // for a suspend: the VM is only put aside, see vm.Sleep

	SleepOf string // a sleep.LabelOf: the snapshot is only there for that VM to sleep on

	sleep bool // the VM will be suspended on the snapshot
}

// meta is the new snapshot's metadata.
func (r *Request) meta() store.Meta {
	m := store.Meta{
		Name: r.Name, Description: r.Description, Labels: r.Labels,
		Expires: r.Expires, Protected: r.Protect,
	}
	if r.SleepOf != "" {
		m.Own = map[string]string{sleep.Label: r.SleepOf}
	}
	return m
}

// The capture modes of a Request.
const (
	Auto = "auto" // Live if the VMM and the VM allow it, else File
	Live = "live"
	File = "file"
)

// Preview is what a capture would do, found without touching the VM.
type Preview struct {
	VM          string `json:"vm"`
	Mode        string `json:"mode"`
	MemoryBytes int64  `json:"memoryBytes"`
	DiskBytes   int64  `json:"diskBytes"`
	Staging     string `json:"staging,omitempty"` // file mode: where RAM is put
	Parent      string `json:"parent,omitempty"`
}

// session is one capture in progress: what is held and must be released.
type session struct {
	*Saver
	req     Request
	rec     *vm.Record
	lease   *store.Lease
	ingest  *store.Ingest
	parent  *store.Snapshot
	config  *chsnap.Config
	mode    string // Live or File
	staging string // file mode only
	started time.Time

	networks func() []store.Network // waits for what is being asked; may be nil
}

// begin starts a session. lease is nil for a session that changes nothing.
func begin(s *Saver, req Request, rec *vm.Record, lease *store.Lease) *session {
	return &session{Saver: s, req: req, rec: rec, lease: lease, started: time.Now()}
}

// note reports what the operator should know and is no refusal.
func (c *session) note(text string) {
	if c.req.OnNote != nil {
		c.req.OnNote(text)
	}
}

// Save captures a running or paused VM and publishes the snapshot. When Save
// returns, the VM is in the state it was found in, with or without an error.
func (s *Saver) Save(ctx context.Context, req Request) (*store.Snapshot, error) {
	rec, unlock, err := s.VMs.Lock(ctx, req.VM, "snapshot create")
	if err != nil {
		return nil, err
	}
	defer unlock()
	lease, err := s.Store.Lease(ctx, "snapshot create "+rec.Name)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	return s.save(ctx, rec, lease, req)
}

// save is a complete capture of a VM whose lock and lease the caller holds.
func (s *Saver) save(ctx context.Context, rec *vm.Record, lease *store.Lease, req Request) (*store.Snapshot, error) {
	var err error
	c := begin(s, req, rec, lease)
	if err := c.preflight(ctx); err != nil {
		return nil, err
	}
	c.networks = observe(ctx, c.rec)
	if c.ingest, err = s.Store.Ingest(ctx, lease); err != nil {
		return nil, err
	}
	defer func() { os.RemoveAll(c.staging) }()
	if req.sleep {
		// From its publication until the VM is suspended on it.
		if err := lease.HoldSnapshot(ctx, c.ingest.ID()); err != nil {
			return nil, err
		}
	}
	asItWas := "VM " + rec.Name + " is as it was, nothing is left of the snapshot"
	if err := c.ingest.Reserve(c.packBytes()); err != nil {
		return nil, failure.Undone(err, c.ingest.Abort(), asItWas)
	}
	sn, err := c.run(ctx)
	if err != nil {
		return nil, failure.Undone(err, errors.Join(c.ingest.Abort(), s.retract(ctx, lease, c.ingest.ID())), asItWas)
	}
	return sn, nil
}

// retract removes what a failed or cancelled capture has published, if anything.
// Its lease protects the snapshot from removal, so it is released.
func (s *Saver) retract(ctx context.Context, lease *store.Lease, id store.ID) error {
	if _, err := os.Lstat(s.Store.Path("snapshots", string(id))); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := lease.Release()
	if gone := s.Store.Remove(context.WithoutCancel(ctx), id, store.RemoveOptions{Force: true}); !errors.Is(gone, failure.NotFound) {
		err = errors.Join(err, gone)
	}
	return err
}

// Preview answers --dry-run: every refusal of Save, none of its effects.
func (s *Saver) Preview(ctx context.Context, req Request) (*Preview, error) {
	rec, err := s.VMs.Get(ctx, req.VM)
	if err != nil {
		return nil, err
	}
	c := begin(s, req, rec, nil)
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	p := &Preview{VM: rec.ID, Mode: c.mode, MemoryBytes: rec.MemoryBytes, DiskBytes: c.diskBytes()}
	if c.mode == File {
		p.Staging = c.stagingBase(ctx)
	}
	if c.parent != nil {
		p.Parent = string(c.parent.ID)
	}
	return p, nil
}

func (c *session) run(ctx context.Context) (*store.Snapshot, error) {
	src := &source{store: c.Store, ingest: c.ingest, prints: prints.Begin(c.Store, c.ingest, c.Prints), parent: c.parent, onBytes: c.req.OnBytes}
	for _, d := range savedDisks(c.rec) {
		src.disks = append(src.disks, sourceDisk{spec: d})
	}
	defer src.close()
	got, err := c.saveGuest(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("capture VM %s: %w", c.rec.Name, err)
	}
	src.dir = got.Dir
	saved := saved(c.rec, src.dir.Config)
	for i, d := range src.disks {
		saved.Disks[i].Bytes = d.spec.Bytes
	}
	// What only the saved state shows: the guest has resumed, and nothing was
	// published yet.
	if err := saved.Judge(src.dir.Config, src.dir.State); err != nil {
		return nil, fmt.Errorf("what was saved of VM %s could not be restored: %w", c.rec.Name, err)
	}
	record, err := json.Marshal(saved)
	if err != nil {
		return nil, err
	}
	p := &publication{source: src, of: c.rec, meta: c.req.meta(), takeOver: c.req.Replace, networks: c.networks, started: c.started}
	return p.publish(ctx, store.Spec{
		VM:     store.VMRef{ID: c.rec.ID, Name: c.rec.Name},
		Images: imageRefs(c.rec), Record: record,
		Hypervisor: store.Hypervisor{Name: "cloud-hypervisor", Version: got.Version.Package},
		Host:       store.Host{VMMBuild: got.Version.Build},
		CPUs:       saved.CPUs,
		Capture:    store.Capture{Mode: c.mode, PauseMs: got.PauseMs},
	})
}

// saved is the record that goes into a snapshot: the machine as its VMM has it,
// which may have been changed since it booted.
func saved(rec *vm.Record, c *chsnap.Config) *vm.Record {
	out := *rec
	out.CPUs, out.MemoryBytes = c.CPUs(), int64(c.MemoryBytes())
	out.Disks = slices.Clone(out.Disks)
	out.Machine = nil // the snapshot has the configuration itself
	return &out
}

// savedDisks describes a VM's disks in the snapshot.
func savedDisks(rec *vm.Record) []store.Disk {
	var out []store.Disk
	for _, d := range rec.Disks {
		out = append(out, store.Disk{
			Index: d.Index, DeviceID: spelling.Claimed(d.DeviceID), Serial: spelling.Claimed(d.Serial), Format: spelling.Claimed("raw"),
			Bytes: d.Bytes, Readonly: d.Readonly, Image: d.Image,
		})
	}
	return out
}

// saveGuest is the part of a capture that the guest notices. Throughout, a note
// says that the guest must be resumed, even in live mode: the VMM is expected to
// resume it if this process is killed, but cocoon is responsible for it.
func (c *session) saveGuest(ctx context.Context, src *source) (*chsnap.Captured, error) {
	settle := func(_ context.Context, err error) error { return err }
	if c.rec.State == vm.Running {
		var err error
		if settle, err = c.VMs.OweResume(ctx, c.rec); err != nil {
			return nil, err
		}
	}
	if err := c.readyDisks(ctx, src); err != nil {
		return nil, settle(ctx, err)
	}
	got, err := c.saveIn(ctx, c.mode, src)
	var refused *chsnap.RefusedError
	if errors.As(err, &refused) && c.mayFallBack() {
		if err = c.fallBack(ctx, refused.Cause.Error()); err == nil {
			got, err = c.saveIn(ctx, c.mode, src)
		}
	}
	return got, settle(ctx, err)
}

func (c *session) saveIn(ctx context.Context, mode string, src *source) (*chsnap.Captured, error) {
	client := c.VMs.Client(c.rec)
	quiet := func(ctx context.Context) error { return c.quietDisks(ctx, src) }
	owed := ""
	if c.rec.State == vm.Running { // else nothing is noted
		owed = c.VMs.OwedPath(c.rec.ID)
	}
	if mode == Live {
		m := &liveMemory{src: src, w: c.ingest.Pages(ctx, imageRefs(c.rec)...), dir: c.ingest.Dir(), firstDone: func() error { return c.writeOut(src) }}
		src.memory = m
		return chsnap.CaptureLive(ctx, chsnap.LiveOptions{
			Client: client, Socket: c.VMs.MigrationSocket(c.rec.ID), Memory: m, WhilePaused: quiet, Guard: c.Guard, Owed: owed,
		})
	}
	got, err := chsnap.Capture(ctx, chsnap.CaptureOptions{
		Client: client, StagingDir: c.staging, WhilePaused: quiet, Guard: c.Guard, Owed: owed,
	})
	if err == nil {
		src.memory = staged(got.Dir)
	}
	return got, err
}

func imageRefs(rec *vm.Record) []store.ImageRef {
	var refs []store.ImageRef
	for _, r := range []*store.ImageRef{rec.Kernel, rec.Firmware, rec.Initramfs} {
		if r != nil {
			refs = append(refs, *r)
		}
	}
	for _, d := range rec.Disks {
		if d.Image != "" {
			refs = append(refs, store.ImageRef{Digest: d.Image, Role: "disk", Bytes: d.Bytes})
		}
	}
	return refs
}

// changed explains a disagreement between our own documents.
func changed(err error) error {
	return failure.Hint(failure.New(failure.Incompatible, "%s", err), "undo what was changed by the API of its VMM, or start it again")
}
