package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// capPerVM keeps the newest MaxPerVM snapshots of each VM, among those that may
// go at all.
func (r Rules) capPerVM(all []*Decision) {
	if r.MaxPerVM <= 0 {
		return
	}
	free := slices.DeleteFunc(slices.Clone(all), func(d *Decision) bool { return !d.free() })
	slices.SortFunc(free, newestFirst)
	seen := map[string]int{}
	for _, d := range free {
		vm := d.Snapshot.vm()
		if seen[vm]++; seen[vm] > r.MaxPerVM {
			d.leave(fmt.Sprintf("more than %d of its VM", r.MaxPerVM))
		}
	}
}

// stored counts blobs as a store does: a shared one exists once.
type stored struct {
	holders map[string]int
	bytes   int64
}

// Bytes of the blobs that snapshots name, each once.
func Bytes(snapshots []Snapshot) int64 {
	s := stored{holders: map[string]int{}}
	for _, sn := range snapshots {
		s.add(sn)
	}
	return s.bytes
}

func (s *stored) add(sn Snapshot) {
	for _, b := range sn.Blobs {
		if s.holders[b.Digest]++; s.holders[b.Digest] == 1 {
			s.bytes += b.Bytes
		}
	}
}

func (s *stored) drop(sn Snapshot) {
	for _, b := range sn.Blobs {
		if s.holders[b.Digest]--; s.holders[b.Digest] == 0 {
			s.bytes -= b.Bytes
		}
	}
}

// capBytes removes the least valuable snapshots until the rest fits, then takes
// back, most valuable first, those that fit after all or free nothing. It returns
// the bytes that stay; more than MaxBytes if what must stay is larger.
//
// The newest snapshot of each VM does not go: a cap that is too small must not
// empty the store. All snapshots from elsewhere count as one VM here; otherwise
// somebody who makes snapshots of many VMs could displace ours.
func (r Rules) capBytes(all []*Decision) int64 {
	s := stored{holders: map[string]int{}}
	for _, d := range all {
		if d.Keep && !d.Snapshot.Idle() {
			s.add(d.Snapshot)
		}
	}
	if r.MaxBytes <= 0 || s.bytes <= r.MaxBytes {
		return s.bytes
	}
	var dropped []*Decision
	for _, d := range leastValuable(all) {
		if s.bytes <= r.MaxBytes {
			break
		}
		s.drop(d.Snapshot)
		dropped = append(dropped, d)
	}
	for _, d := range slices.Backward(dropped) {
		before := s.bytes
		if s.add(d.Snapshot); s.bytes > before && s.bytes > r.MaxBytes {
			s.drop(d.Snapshot)
			d.leave(fmt.Sprintf("more than %d bytes are stored, and it is of least value", r.MaxBytes))
		}
	}
	return s.bytes
}

// leastValuable orders what the cap on bytes may remove: snapshots from elsewhere
// first, then those kept by the fewest rules, then the oldest.
func leastValuable(all []*Decision) []*Decision {
	newest := map[string]*Decision{}
	of := func(d *Decision) string {
		if d.Snapshot.Foreign {
			return "elsewhere"
		}
		return "here " + d.Snapshot.VM
	}
	for _, d := range all {
		if n := newest[of(d)]; d.Keep && !d.Snapshot.Damaged && !d.Snapshot.Bed && (n == nil || newestFirst(d, n) < 0) {
			newest[of(d)] = d
		}
	}
	out := slices.DeleteFunc(slices.Clone(all), func(d *Decision) bool { return !d.free() || newest[of(d)] == d })
	slices.SortFunc(out, func(a, b *Decision) int {
		return cmp.Or(foreignFirst(a, b), cmp.Compare(a.matches, b.matches), newestFirst(b, a))
	})
	return out
}

func foreignFirst(a, b *Decision) int {
	switch {
	case a.Snapshot.Foreign == b.Snapshot.Foreign:
		return 0
	case a.Snapshot.Foreign:
		return -1
	}
	return 1
}
