// Package gc frees what nothing references and says why.
//
// Words: a root is an object kept for its own sake (a snapshot, a VM record, an
// image record, a pin, a live lease); mark finds every object that a root names;
// an orphan is an object that is not marked; sweep moves orphans to the trash
// under the store lock and unlinks them outside it. The account is what the last
// run found (internal/base/account). A lost root is in the account, gone, and was
// not removed by a cocoon command. A doubtful object has no owner but looks as if
// it had one.
//
// Order of a run: gc.lock (another gc: failure.Busy, naming it) → the account is
// compared with what exists; if something was lost, and that is not accepted, the
// rest is a dry run → half-done restores of dead processes are undone, snapshots
// that suspended VMs no longer need are removed → leases of dead holders are
// reaped → poor packs are rewritten, if requested → roots → mark → plan, all
// without the store lock → windows: exclusive store lock, for instants; read what
// changed in the roots, rename victims that are still unreferenced to the trash →
// unlink → write the new account, and remove the traces of removals that it
// covers. A dry run is the same plan, not executed.
//
// Invariants: if a root cannot be read, or was lost, nothing is swept; age alone
// is never a reason to remove, though a doubtful object stays only for its grace
// period; nothing is discarded outside a window in which the roots were read to
// their end; every removal has its reason, every kept object its holders.
package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/trash"
)

// DefaultGrace is long enough to find out where the owner of an object is.
const DefaultGrace = 7 * 24 * time.Hour

// Options of Collect. The zero value removes nothing beyond the default, and is
// refused because it has no Sources.
type Options struct {
	DryRun  bool
	Explain bool          // report what is kept and its holders
	Wait    time.Duration // for another gc
	// Sources provide all roots except leases and snapshots, and all objects
	// outside the folders that gc reads itself, from the packages that own them.
	// A source that has no roots may be left out: its objects are then left
	// alone.
	Sources []garbage.Source
	// ForgetNetworks are ids, or prefixes of ids, of VMs that do not exist: their
	// networks are dropped even if the plugins cannot undo them.
	ForgetNetworks []string
	Repack         *Repack // nil: packs stay as they are
	// AcceptLoss continues although roots vanished, and frees what only they
	// held.
	AcceptLoss bool
	// Grace is how long doubtful objects stay, from the first run that reports
	// them: 0 is DefaultGrace, negative not at all.
	Grace time.Duration
}

// Removed is one object that was removed, or would be.
type Removed struct {
	Kind   garbage.Kind `json:"kind"`
	ID     string       `json:"id"`
	Bytes  int64        `json:"bytes"`
	Reason string       `json:"reason"`
}

// Failed is one object that should have been removed but could not be.
type Failed struct {
	Kind   garbage.Kind `json:"kind"`
	ID     string       `json:"id"`
	Bytes  int64        `json:"bytes"`
	Reason string       `json:"reason"`
}

// Kept is one object that stays, with its holders.
type Kept struct {
	Kind    garbage.Kind `json:"kind"`
	ID      string       `json:"id"`
	Bytes   int64        `json:"bytes"`
	Holders []string     `json:"holders"`

	by []holder
}

// Leases counts those of living and of dead holders.
type Leases struct {
	Live   int `json:"live"`
	Reaped int `json:"reaped"`
}

// Windows are the instants in which the store was locked: how many, and the most
// entries of leases, snapshots and records that one had to look at. That number
// grows with concurrent activity, not with the store.
type Windows struct {
	Count       int `json:"count"`
	MostEntries int `json:"mostEntries"`
}

// Report is the result of Collect.
type Report struct {
	DryRun         bool              `json:"dryRun"`
	Removed        []Removed         `json:"removed"`
	Failed         []Failed          `json:"failed"`
	Kept           []Kept            `json:"kept,omitempty"`
	ReclaimedBytes int64             `json:"reclaimedBytes"`
	Foreign        []garbage.Foreign `json:"foreign"` // left alone
	Lost           []Lost            `json:"lost"`    // because of them nothing is removed, unless accepted
	Refused        bool              `json:"refused"` // because of a loss; the report is that of a dry run
	Doubtful       []Doubtful        `json:"doubtful"`
	Leases         Leases            `json:"leases"`
	DurationMs     float64           `json:"durationMs"`
	LockMs         float64           `json:"lockMs"` // the longest single lock of the store
	Windows        Windows           `json:"windows"`

	Repack *RepackReport `json:"repack,omitempty"`
}

// NewReport is the report of a run that did nothing.
func NewReport(dryRun bool) *Report {
	return &Report{DryRun: dryRun, Removed: []Removed{}, Failed: []Failed{}, Foreign: []garbage.Foreign{}, Lost: []Lost{}, Doubtful: []Doubtful{}}
}

func ms(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

// Collect runs the collector once. A report returned with an error still says
// what was done: packs may stay because there is no room to rewrite them, objects
// because they cannot be removed.
func Collect(ctx context.Context, s *store.Store, o Options) (*Report, error) {
	start := time.Now()
	if err := complete(o.Sources); err != nil {
		return nil, err
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	maintain := s.Maintain
	if o.DryRun {
		maintain = s.Survey
	}
	m, err := maintain(ctx, o.Wait, "gc")
	if err != nil {
		return nil, err
	}
	defer m.End()
	rep := NewReport(o.DryRun)
	c := &collector{st: s, m: m, o: o, rep: rep, sweep: s.Trash().Run(), started: start, dropped: map[string]bool{}, beds: map[string]bool{}, unborn: map[garbage.Key]bool{}}
	defer c.close()
	told, err := c.run(ctx)
	if err != nil {
		return nil, errors.Join(err, told)
	}
	rep.DurationMs = ms(start)
	return rep, errors.Join(told, c.failures.err())
}

// collector is one run.
type collector struct {
	st    *store.Store
	m     *store.Maintenance
	o     Options
	rep   *Report
	roots *roots
	sweep *trash.Run

	asleep  []Kept               // snapshots of suspended VMs
	dropped map[string]bool      // snapshots that this run removed
	beds    map[string]bool      // VMs whose traces stay, because the snapshot they were suspended on does
	unborn  map[garbage.Key]bool // VMs that dead processes were making

	started time.Time
	mem     *memory
	next    *account.Account // to be noted at the end
	old     *old             // nil where nothing is old
	atEnd   []func()
	plan    *plan
	making  map[string]bool // VMs that living processes make; nil: not determined yet

	failures failures
}

// run returns two errors: one to report beside the result, and one that ended the
// run.
func (c *collector) run(ctx context.Context) (told, err error) {
	refused, err := c.remember(ctx)
	if err != nil {
		return nil, err
	}
	told, err = c.runOn(ctx)
	if refused != nil { // whatever else cannot be read for it
		return errors.Join(refused, told, err), nil
	}
	return told, err
}

func (c *collector) runOn(ctx context.Context) (told, err error) {
	if err := c.undo(ctx); err != nil {
		return nil, err
	}
	if err := c.sleepers(ctx); err != nil {
		return nil, err
	}
	p := &plan{}
	dead, err := c.reap(ctx, p)
	if err != nil {
		return nil, err
	}
	durable.Step("gc.reaped")
	if told, err = c.repack(ctx); err != nil {
		return told, err
	}
	return told, c.collect(ctx, p, dead)
}

// collect marks, plans and sweeps.
func (c *collector) collect(ctx context.Context, p *plan, dead map[string]bool) error {
	p.marks, c.plan = newMarks(c.o.Explain), p
	c.roots = newRoots(c.st, c.o.Sources, p.marks, dead)
	defer func() { c.roots.watch.close() }()
	if err := c.roots.update(ctx); err != nil {
		return unreadable(err)
	}
	durable.Step("gc.marked")
	if err := c.mem.confirm(c.roots); err != nil {
		return err
	}
	if err := c.doubts(ctx, p); err != nil {
		return err
	}
	if err := c.judge(ctx, p); err != nil {
		return err
	}
	c.tellOld()
	if err := c.roots.check(); err != nil {
		return unreadable(err)
	}
	durable.Step("gc.planned")
	if err := c.execute(ctx, p); err != nil {
		return err
	}
	if err := c.names(ctx); err != nil {
		c.failures.add(err)
	}
	if c.o.DryRun {
		c.report(p)
		return nil
	}
	durable.Step("gc.swept")
	c.endOutside(ctx, p)
	err := c.m.Trash().Empty(ctx, func(name string, err error) { c.failTrash(p, name, err) })
	c.report(p)
	if err != nil {
		return err
	}
	if err := c.note(); err != nil {
		c.failures.add(err)
	}
	return nil
}

// unreadable: if a root cannot be read, or only by a newer program, what it needs
// is unknown.
func unreadable(err error) error {
	remedy := failure.HintOf(err)
	lost := errors.Is(err, failure.NotFound) || errors.Is(err, failure.Damaged)
	if remedy == "" && lost {
		remedy = hint.VerifyAll.Of() + " says what is damaged; " + hint.Repair.Of() + " tries to make it whole"
	}
	err = fmt.Errorf("gc: nothing is swept, a root cannot be read: %w", err)
	if lost || errors.Is(err, failure.Incompatible) {
		err = failure.Wrap(failure.Damaged, err)
	}
	if remedy == "" {
		return err
	}
	return failure.Hint(err, remedy)
}

// complete refuses to collect if no source is responsible for a folder that can
// only be recovered from a backup.
func complete(sources []garbage.Source) error {
	for _, folder := range layout.Truth() {
		if slices.ContainsFunc(modules, func(m module) bool { return m.folder == folder }) {
			continue
		}
		if !slices.ContainsFunc(sources, func(s garbage.Source) bool { return s.Folder == folder && (s.Read != nil || s.Blobs != "") }) {
			return fmt.Errorf("gc: nothing says what is in %s", folder)
		}
	}
	return nil
}

func (c *collector) report(p *plan) {
	for _, v := range p.victims {
		if v.failed {
			continue
		}
		c.rep.Removed = append(c.rep.Removed, Removed{v.Kind, v.ID, v.bytes, v.Reason})
		c.rep.ReclaimedBytes += v.bytes
	}
	if c.o.Explain {
		c.rep.Kept = append(c.asleep, p.kept...)
	}
}
