package restore

import (
	"fmt"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// Mode is how guest RAM gets into the new VMM.
type Mode string

const (
	Auto   Mode = "auto"   // the fastest that works for this guest, see choose
	Copy   Mode = "copy"   // a CH snapshot folder that the VMM reads in full; works for every guest
	Map    Mode = "map"    // the materialised file, mapped privately and shared by clones
	Stream Mode = "stream" // pages pushed from the packs into the VMM, no file
	Cold   Mode = "cold"   // disks only: boot from the record
)

// facts decide which modes work and which is fastest.
type facts struct {
	noMap    string // why the RAM cannot be mapped, "" if it can
	noStream string // why it cannot be pushed
	noCopy   string // why the VMM cannot read a snapshot folder
	noRoom   bool   // for the file that is mapped
	cached   bool   // the materialised file exists
	clones   int    // how many VMs are made of the snapshot at once
}

// refusal says why a mode would not work, "" if it would.
func (f facts) refusal(m Mode) string {
	return map[Mode]string{Map: f.noMap, Stream: f.noStream, Copy: f.noCopy}[m]
}

// choose returns the mode and the reason. A requested mode that would not work is
// failure.Incompatible, never replaced by another.
func choose(asked Mode, f facts) (Mode, string, error) {
	switch asked {
	case Copy, Map, Stream:
		if why := f.refusal(asked); why != "" {
			return "", "", failure.Hint(failure.New(failure.Incompatible, "restore mode %s is wrong here: %s", asked, why), f.instead())
		}
		return asked, "asked for", nil
	case Auto, "":
	default:
		return "", "", failure.New(failure.Usage, "unknown restore mode %q: auto, map, stream or copy", asked)
	}
	m := fastest(f)
	if why := f.refusal(m); why != "" {
		return "", "", failure.Hint(failure.New(failure.Incompatible, "no restore mode is right here: %s; %s", f.noMap, why), hint.Cold.Of()+" boots from the disks")
	}
	switch {
	case m == Map && f.cached:
		return m, "RAM is in the cache: mapped, and shared by clones", nil
	case m == Map && f.noStream != "":
		return m, "RAM is made into a file first (" + f.noStream + ")", nil
	case m == Map:
		return m, fmt.Sprintf("RAM is made into a file once, which %d clones share", f.clones), nil
	case m == Stream && f.noMap != "":
		return m, "RAM is pushed into the VMM, for " + f.noMap, nil
	case m == Stream && f.noRoom && f.clones > 1:
		return m, "RAM is pushed into each VMM: there is no room for it as a file", nil
	case m == Stream:
		return m, "RAM is not in the cache: pushed into the VMM", nil
	}
	return m, f.noMap + "; " + f.noStream, nil
}

// instead names modes that work.
func (f facts) instead() string {
	m := fastest(f)
	if f.refusal(m) != "" {
		return hint.Cold.Of() + " boots from the disks"
	}
	return "use " + hint.RestoreMode.Of() + " auto, which takes " + string(m)
}

func fastest(f facts) Mode {
	switch {
	case f.noMap == "" && (f.cached || f.clones > 1 && !f.noRoom || f.noStream != ""):
		return Map
	case f.noStream == "":
		return Stream
	}
	return Copy
}

// chooseMode fills in the mode.
func (p *Plan) chooseMode(r Request, f findings, passage chsnap.Passage) error {
	choice := facts{noMap: p.config.MapRefusal(), noStream: p.config.StreamRefusal(), cached: f.cached, clones: r.Clones}
	if chsnap.Major(f.host.VMM.Package) < chsnap.StreamVersion {
		choice.noStream = fmt.Sprintf("Cloud Hypervisor %s accepts no stream, v%d does", f.host.VMM, chsnap.StreamVersion)
	}
	if asked := r.Mode != Auto && r.Mode != ""; passage == chsnap.ByMigration && !(asked && r.AllowIncompatible) {
		why := fmt.Sprintf("it was made by Cloud Hypervisor %s, which %s accepts by migration only", p.snapshot.Spec.Hypervisor.Version, f.host.VMM)
		choice.noMap, choice.noCopy = why, why
	}
	if _, ok := p.fits(r, f, Map); !ok {
		choice.noRoom = true
	}
	var err error
	if p.Mode, p.Why, err = choose(r.Mode, choice); err != nil {
		return fmt.Errorf("snapshot %s: %w", p.SnapshotID, err)
	}
	p.Ahead = p.Mode == Stream && r.Mode != Stream && choice.noMap == "" && !r.ownDisks
	return nil
}
