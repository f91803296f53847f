package cocoon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/index"
	"github.com/cocoonv2/cocoon/store/repair"
)

// Snapshot is a VM at one instant: RAM, devices and disks.
type Snapshot struct {
	ID          string
	Name        string
	Description string
	Labels      map[string]string
	State       string // ready; quarantined or damaged ones are not rebuilt
	VM          string // name of the VM that was saved
	VMID        string // "" for an imported folder
	Created     time.Time
	Expires     time.Time // zero: never
	Protected   bool      // Remove and Prune refuse or skip it
	Parent      string    // id of the snapshot whose pages it mainly shares
	MemoryBytes int64
	StoredBytes int64         // of everything it needs, shared with others or not
	Mode        string        // live, file or import
	Paused      time.Duration // how long the guest was paused for it
}

// SaveOptions configure Save. The zero value saves without a name, in the mode
// with the shortest pause.
type SaveOptions struct {
	Name        string
	Description string
	Labels      map[string]string
	Expires     time.Time // prune may remove it from then on; zero: never
	Protect     bool
	Replace     bool   // take the name from an older snapshot
	Parent      string // ref of a snapshot whose pages may be shared; "" is auto; or none
	Mode        string // live: while the guest runs; file: while it is paused; "" is auto
}

// Save saves a running VM, which keeps running: with a VMM that can capture live,
// its guest pauses for milliseconds only.
func (h *Host) Save(ctx context.Context, vm string, o SaveOptions) (saved *Snapshot, err error) {
	defer classed(&err)
	req := capture.Request{
		VM: vm, Name: o.Name, Description: o.Description, Labels: o.Labels, Protect: o.Protect, Replace: o.Replace,
		Parent: o.Parent, Mode: o.Mode, OnBytes: h.telling("saving", vm),
		OnNote: func(text string) { h.log.Warn(text, "vm", vm) },
	}
	if err := document.CheckLabels(o.Labels); err != nil {
		return nil, err
	}
	if !o.Expires.IsZero() {
		at := o.Expires.UTC()
		req.Expires = &at
	}
	sn, err := h.house.Saver.Save(h.patient(ctx), req)
	if err != nil {
		return nil, err
	}
	return published(sn), nil
}

// Snapshot saves the VM named by ref, which keeps running, under a name that may
// be empty.
func (h *Host) Snapshot(ctx context.Context, ref, name string) error {
	_, err := h.Save(ctx, ref, SaveOptions{Name: name})
	return err
}

// List lists all snapshots, damaged ones included.
func (h *Host) List(ctx context.Context) (snapshots []Snapshot, err error) {
	defer classed(&err)
	all, err := h.house.Store.Index().Summaries(h.patient(ctx))
	if err != nil {
		return nil, err
	}
	out := make([]Snapshot, 0, len(all))
	for _, s := range all {
		out = append(out, listed(s))
	}
	return out, nil
}

// Inspect returns one snapshot.
func (h *Host) Inspect(ctx context.Context, ref string) (found *Snapshot, err error) {
	defer classed(&err)
	sum, err := house.Summary(h.patient(ctx), h.house.Store, ref)
	if err != nil {
		return nil, err
	}
	sn := listed(*sum)
	return &sn, nil
}

// Remove removes a snapshot at once; VMs rebuilt from it are not disturbed.
// Collect frees what only it needed. A protected snapshot, and one that a
// suspended VM needs, is Conflict.
func (h *Host) Remove(ctx context.Context, ref string) (err error) {
	defer classed(&err)
	id, err := h.resolve(ctx, ref)
	if err != nil {
		return err
	}
	return h.house.Store.Remove(h.patient(ctx), id, store.RemoveOptions{})
}

// Prune removes the snapshots that no rule keeps, and expired ones. The decisions
// say for every snapshot whether it stays and why; with dryRun nothing else
// happens. They are returned with an error too.
func (h *Host) Prune(ctx context.Context, rules policy.Rules, dryRun bool) (decisions []policy.Decision, err error) {
	defer classed(&err)
	rep, err := h.house.Prune(h.patient(ctx), rules, dryRun)
	if rep == nil {
		return nil, err
	}
	return rep.Decided, err
}

// Collect frees what no snapshot, VM or image needs any more, and says why. With
// dryRun the report says what would be done, and what holds the rest; otherwise
// it may come with an error about what could not be freed. If something that
// existed at the last collection vanished without being removed, nothing is freed
// and the error is Conflict: cocoon gc --dry-run says more. If another collection
// is running, the error is Busy.
func (h *Host) Collect(ctx context.Context, dryRun bool) (report *gc.Report, err error) {
	defer classed(&err)
	return h.house.Collect(h.patient(ctx), gc.Options{DryRun: dryRun, Explain: dryRun})
}

// Verify checks snapshots, or all if no ref is given: that everything they need
// exists and, with readData, every byte of it. Damage is an error of class
// Damaged that names the damaged objects; the returned snapshots are those
// affected.
func (h *Host) Verify(ctx context.Context, readData bool, refs ...string) (affected []Snapshot, err error) {
	defer classed(&err)
	ctx = h.patient(ctx)
	var ids []store.ID
	for _, ref := range refs {
		id, err := h.resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	o := repair.VerifyOptions{ReadData: readData}
	if readData {
		o.Part, o.Parts = 1, 1
	}
	rep, err := h.house.Verify(ctx, ids, o)
	if err != nil || len(rep.Damaged) == 0 {
		return nil, err
	}
	all, err := h.List(ctx)
	var lines []string
	hit := map[string]bool{}
	for _, d := range rep.Damaged {
		lines = append(lines, fmt.Sprintf("%s: want %s, got %s", d.Object, d.Want, d.Got))
		for _, id := range d.Affects {
			hit[string(id)] = true
		}
	}
	affected = slices.DeleteFunc(all, func(s Snapshot) bool { return !hit[s.ID] })
	return affected, errors.Join(err, failure.Hint(failure.New(failure.Damaged, "%s", strings.Join(lines, "; ")), hint.Repair.Of()+" tries to make them whole"))
}

// Push copies a snapshot to REGISTRY/NAME:TAG, an OCI registry; what is already
// there is not sent again. It returns the digest of the manifest.
func (h *Host) Push(ctx context.Context, ref, to string) (digest string, err error) {
	defer classed(&err)
	out, err := h.house.Push(h.patient(ctx), ref, to, house.Transfer{OnBytes: h.telling("pushing", ref)})
	if err != nil {
		return "", err
	}
	return out.Digest, nil
}

// Pull fetches a snapshot from REGISTRY/NAME:TAG, under a name that may be empty;
// what is already here is not fetched again.
func (h *Host) Pull(ctx context.Context, from, name string) (taken *Snapshot, err error) {
	defer classed(&err)
	sn, err := h.house.Pull(h.patient(ctx), from, registry.PullOptions{Meta: store.Meta{Name: name}}, house.Transfer{OnBytes: h.telling("pulling", from)})
	if err != nil {
		return nil, err
	}
	return published(sn), nil
}

// Export writes a snapshot to a place that must not exist: FILE.tar becomes an
// archive that Import reads on another host, anything else a folder that a bare VMM
// restores from (cloud-hypervisor --restore).
func (h *Host) Export(ctx context.Context, ref, to string) (err error) {
	defer classed(&err)
	return h.house.Export(h.patient(ctx), ref, to, "", nil, house.Transfer{OnBytes: h.telling("exporting", ref)})
}

// Import takes in a snapshot, under a name that may be empty: an archive, an OCI
// image layout, or a folder that a VMM wrote. Of such a folder only its own files
// are read, whatever its configuration names. A layout that holds several snapshots
// is Usage.
func (h *Host) Import(ctx context.Context, from, name string) (taken *Snapshot, err error) {
	defer classed(&err)
	sn, err := h.house.Import(h.patient(ctx), from, nil, house.ImportOptions{
		Meta: store.Meta{Name: name}, OnBytes: h.telling("importing", from),
		OnNote: func(text, hint string) { h.log.Warn(text, "snapshot", from, "hint", hint) },
	})
	if err != nil {
		return nil, err
	}
	return published(sn), nil
}

// Repair reads everything back, makes damaged objects sound where that can be done
// from what is left of them and from copies on this host, and rebuilds what is
// derived. The answer names what was repaired; it stands beside an error, of class
// Damaged where something could not be.
func (h *Host) Repair(ctx context.Context) (repaired []string, err error) {
	defer classed(&err)
	rep, err := h.house.Repair(h.patient(ctx), house.RepairOptions{})
	if rep == nil {
		return nil, err
	}
	for _, a := range rep.Repaired {
		repaired = append(repaired, a.Object+": "+a.What)
	}
	return repaired, err
}

func (h *Host) resolve(ctx context.Context, ref string) (_ store.ID, err error) {
	defer classed(&err)
	return h.house.Store.Resolve(h.patient(ctx), ref)
}

// published converts a snapshot as returned by its maker.
func published(sn *store.Snapshot) *Snapshot {
	s := &Snapshot{
		ID: string(sn.ID), Name: sn.Meta.Name, Description: sn.Meta.Description, Labels: sn.Meta.Labels, State: string(sn.State),
		VM: sn.Spec.VM.Name, VMID: sn.Spec.VM.ID, Created: sn.Spec.Created, Protected: sn.Meta.Protected,
		Parent: string(sn.Spec.Parent), StoredBytes: sn.StoredBytes, Mode: sn.Spec.Capture.Mode, Paused: ms(sn.Spec.Capture.PauseMs),
	}
	for _, m := range sn.Spec.Memory {
		s.MemoryBytes += int64(m.Bytes)
	}
	if sn.Meta.Expires != nil {
		s.Expires = *sn.Meta.Expires
	}
	return s
}

// listed converts a row of a list.
func listed(l index.Summary) Snapshot {
	s := Snapshot{
		ID: string(l.ID), Name: l.Name, Description: l.Description, Labels: l.Labels, State: string(l.State),
		VM: l.VM.Name, VMID: l.VM.ID, Created: l.Created, Protected: l.Protected,
		Parent: string(l.Parent), StoredBytes: l.Size.Stored, Mode: l.Capture.Mode, Paused: ms(l.Capture.PauseMs),
		MemoryBytes: l.Memory.Bytes,
	}
	if l.Expires != nil {
		s.Expires = *l.Expires
	}
	return s
}

func ms(n float64) time.Duration { return time.Duration(1000*n) * time.Microsecond }
