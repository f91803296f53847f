package restore

import (
	"context"
	"fmt"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// findings are the facts that decide a plan. They were read before; deciding
// touches nothing.
type findings struct {
	networks []NetworkPlan // none for a VM that has its own
	cached   bool          // the RAM is in the cache
	room     ramcache.Room
	huge     []hugePages
	host     Host
}

// hugePages are those of one size.
type hugePages struct {
	bytes      uint64 // of one
	need, free int64
}

// find reads the facts that decide a restore.
func (e *Engine) find(ctx context.Context, r Request, s *subject, host func() (Host, error)) (f findings, err error) {
	if !r.ownDisks {
		if f.networks, err = e.planNetworks(s, r); err != nil {
			return f, err
		}
	}
	f.cached = e.cache().Has(s.snapshot)
	if f.room, err = e.cache().Room(s.snapshot); err != nil {
		return f, err
	}
	if !r.ownDisks {
		if err := e.lookAtDisks(ctx, s); err != nil {
			return f, err
		}
	}
	if !r.needsHost() {
		return f, nil
	}
	for size, bytes := range s.config.HugePages() {
		h := hugePages{}
		if h.free, h.bytes, err = vm.FreeHugePages(size); err != nil {
			return f, fmt.Errorf("count huge pages: %w", err)
		}
		h.need = int64((bytes + h.bytes - 1) / h.bytes)
		f.huge = append(f.huge, h)
	}
	f.host, err = host()
	return f, err
}

// lookAtDisks refuses disks that a VMM would not open as raw: older versions
// saved whatever a guest had written.
func (e *Engine) lookAtDisks(ctx context.Context, s *subject) error {
	for i, d := range s.snapshot.Spec.Disks {
		if s.sizes[i].stored == 0 {
			continue
		}
		im, err := contents.Of(e.Store, s.snapshot).Open(ctx, s.maps.Disks[i])
		if err != nil {
			return fmt.Errorf("disk %d of snapshot %s: %w", d.Index, s.snapshot.ID, err)
		}
		err = chsnap.RefuseFormat(im, im.Bytes())
		im.Close()
		if err != nil {
			return fmt.Errorf("disk %d of snapshot %s: %w", d.Index, s.snapshot.ID, err)
		}
	}
	return nil
}

// decide fills in the plan, or refuses.
func (p *Plan) decide(r Request, f findings) error {
	p.warnOfSizes()
	clock, err := r.clock()
	if err != nil {
		return err
	}
	if r.Cold {
		if err := p.source.Bootable(); err != nil {
			return fmt.Errorf("snapshot %s: %w", p.SnapshotID, err)
		}
		p.Mode, p.Why = Cold, hint.Cold.Of()+": boot from the disks"
		if why := p.source.Unlike(); why != "" {
			p.Warnings = append(p.Warnings, "it boots as another machine, of processors, RAM, disks and interfaces alone: "+why)
		}
		return p.decideRoom(r, f)
	}
	// Everything a restore does with the documents, in advance: the capture or
	// the pull may have checked by other rules, or lacked the key.
	if err := p.source.Judge(p.config, p.state); err != nil {
		return fmt.Errorf("snapshot %s: %w", p.SnapshotID, err)
	}
	if p.Clock = clock; clock == StandStill {
		if err := p.state.ClockHolds(); err != nil {
			return fmt.Errorf("snapshot %s: %w", p.SnapshotID, err)
		}
	}
	passage, err := p.checkHost(r, f)
	if err != nil {
		return err
	}
	if err := p.chooseMode(r, f, passage); err != nil {
		return err
	}
	if err := p.decideRoom(r, f); err != nil {
		return err
	}
	return p.decideHugePages(r, f)
}

// warnOfSizes: older versions published wrong sizes of grown disks.
func (p *Plan) warnOfSizes() {
	for i, d := range p.disks {
		if said := p.snapshot.Spec.Disks[i].Bytes; d.bytes != said && p.snapshot.Spec.Disks[i].Image == "" {
			p.Warnings = append(p.Warnings, fmt.Sprintf("disk %d has %d bytes, although the snapshot says %d: it was grown", p.snapshot.Spec.Disks[i].Index, d.bytes, said))
		}
	}
}

// checkHost compares the VMM, the processor's flags and its time stamp counter
// with those at capture.
func (p *Plan) checkHost(r Request, f findings) (chsnap.Passage, error) {
	var wrong []string
	made := p.snapshot.Spec.Hypervisor.Version
	passage := f.host.VMM.Takes(made)
	if passage == chsnap.NoWay {
		by := chsnap.Version{Package: made, Build: p.snapshot.Spec.Host.VMMBuild}
		wrong = append(wrong, fmt.Sprintf("it was made by Cloud Hypervisor %s, this host has %s", by, f.host.VMM))
	}
	if missing := f.host.lacks(p.snapshot.Spec.Host.CPUFlags); len(missing) > 0 {
		wrong = append(wrong, "this CPU lacks "+strings.Join(missing, " "))
	}
	tsc, err := p.checkTSC(f)
	if err != nil {
		return passage, err
	}
	if tsc != "" {
		wrong = append(wrong, tsc)
	}
	if len(wrong) == 0 {
		return passage, nil
	}
	if r.AllowIncompatible {
		p.Warnings = append(p.Warnings, wrong...)
		p.dropTSC = tsc != ""
		if passage == chsnap.NoWay {
			passage = chsnap.AnyWay
		}
		return passage, nil
	}
	return passage, failure.Hint(failure.New(failure.Incompatible, "snapshot %s: %s", p.SnapshotID, strings.Join(wrong, "; ")),
		hint.AllowIncompatible.Of()+" tries all the same, "+hint.Cold.Of()+" boots from the disks")
}

// checkTSC says what is wrong with the frequency of the guest's time stamp
// counter on this host, "" if nothing is.
func (p *Plan) checkTSC(f findings) (string, error) {
	if f.host.TSC.KHz == 0 || f.host.TSC.Scales {
		return "", nil
	}
	khz, err := p.state.TSCKHz()
	if err != nil {
		return "", fmt.Errorf("state of snapshot %s: %w", p.SnapshotID, err)
	}
	both := fmt.Sprintf("the guest's time stamp counter runs at %s MHz, this processor's at %s MHz", mega(khz), mega(f.host.TSC.KHz))
	switch f.host.TSC.compare(khz) {
	case fasterTSC:
		return both + " and it cannot present another frequency", nil
	case slowerTSC:
		p.Warnings = append(p.Warnings, both+": the kernel compensates, and reading the time takes the guest longer")
	}
	return "", nil
}

// mega writes kilohertz as megahertz.
func mega(khz uint64) string { return fmt.Sprintf("%d.%03d", khz/1000, khz%1000) }

func (p *Plan) decideHugePages(r Request, f findings) error {
	for _, h := range f.huge {
		if need := h.need * int64(max(r.Clones, 1)); need > h.free {
			return fmt.Errorf("snapshot %s: %w", p.SnapshotID, vm.TooFewHugePages(need, h.free, h.bytes))
		}
	}
	return nil
}
