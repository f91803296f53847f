// Package policy decides which snapshots go, and says why. It is a pure
// function: no clock, no files, the same answer for any order of its input.
//
// Words: a keep rule (last, hourly … yearly, within, label) names snapshots that
// stay; a cap (per VM, bytes) removes some of those again; the keep rules apply
// to each group separately.
//
// Order of a decision, the first that applies:
//
//  1. protected, or needed by something that cannot do without it: stays, and
//     counts neither for a rule nor for a cap per VM;
//  2. made only for a suspended VM (a bed) that is no longer suspended on it: no
//     rule may remove it, and it counts for none;
//  3. damaged: stays, since its labels cannot be read; it displaces no sound one;
//  4. expired: goes, whatever keep rules say;
//  5. from the future: stays and counts for nothing, since some clock is wrong,
//     and with now in the past nothing goes at all;
//  6. keep rules, if at least one of last … yearly or within is given: what none
//     of them and no label matches goes;
//  7. the cap per VM: all but its newest go;
//  8. the cap on bytes: the least valuable go until the rest fits.
//
// A bed goes once no VM is suspended on it, which may happen at any time: so it
// is never the newest of its VM, needed or not, and nothing goes because of it.
// Its bytes count as stored while it is needed, not once it is left to gc.
//
// Keep rules are independent of each other, as in restic: each looks at all
// snapshots of a group and one match is enough. So adding a rule never removes
// more. (In Proxmox Backup Server a later rule skips the periods that an earlier
// one covers, which does not have this property.)
//
// A snapshot from elsewhere only claims to be of some VM. It is never in a group,
// under a cap per VM or among the newest of a VM with what was captured here,
// unless one group is made of all or of a label; and the cap on bytes removes it
// before any of those.
//
// Buckets are calendar hours, days, ISO weeks, months and years in UTC; of each
// bucket the newest snapshot stays, and empty buckets do not count. While a
// rule has counts left it also keeps the oldest snapshot, so that history grows
// to its full length.
package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Snapshot is what the rules look at.
type Snapshot struct {
	ID        string
	Name      string
	VM        string // identity of the VM, not its name: names are reused
	VMName    string
	Foreign   bool // it came from elsewhere: VM and VMName are its maker's claims
	Created   time.Time
	Expires   *time.Time
	Labels    map[string]string
	Protected bool
	Needed    string // by what, "" if by nothing
	Bed       bool   // made only for a suspended VM
	Damaged   bool
	Blobs     []Blob // all that it names, shared ones too; needed by MaxBytes only
}

// Blob is a stored object; snapshots share it by naming the same digest.
type Blob struct {
	Digest string
	Bytes  int64
}

// Idle reports whether it is a bed that nothing needs: left to gc, not to the
// rules.
func (s Snapshot) Idle() bool { return s.Bed && s.Needed == "" }

// Rules of one run. Zero turns a rule off.
type Rules struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within   time.Duration // before the newest of the group, not before now
	Labels   []Label       // any of them keeps; alone they remove nothing
	GroupBy  Group
	MaxPerVM int
	MaxBytes int64 // of blobs that snapshots name, each once
}

// Label matches a snapshot that has Key, with this Value unless Any.
type Label struct {
	Key, Value string
	Any        bool
}

// Group forms the groups to which the keep rules apply. The zero value is by VM;
// Label is the key of a label; All makes one group of everything.
type Group struct {
	Label string
	All   bool
}

// Decision about one snapshot. Reasons has at least one element: every rule
// that keeps it, strongest first, or the one thing that makes it go.
type Decision struct {
	Snapshot Snapshot
	Group    string // name of the VM or value of the label
	Keep     bool
	Reasons  []string

	fixed   bool // stays whatever rules and caps say
	matches int  // keep rules that name it: its value
}

// Result of Decide.
type Result struct {
	Decisions []Decision // by group, newest first
	Bytes     int64      // of the blobs that kept snapshots name, each once
}

// Selects reports whether there are keep rules, so that what they do not match
// goes.
func (r Rules) Selects() bool {
	return r.Last > 0 || r.Hourly > 0 || r.Daily > 0 || r.Weekly > 0 || r.Monthly > 0 || r.Yearly > 0 || r.Within > 0
}

// Removes reports whether any rule or cap can make an unexpired snapshot go.
func (r Rules) Removes() bool { return r.Selects() || r.MaxPerVM > 0 || r.MaxBytes > 0 }

// Decide applies the rules at the time now.
func Decide(snapshots []Snapshot, r Rules, now time.Time) Result {
	all := make([]*Decision, len(snapshots))
	for i, s := range snapshots {
		all[i] = &Decision{Snapshot: s, Group: r.GroupBy.name(s)}
	}
	slices.SortFunc(all, func(a, b *Decision) int {
		return cmp.Or(cmp.Compare(r.GroupBy.key(a.Snapshot), r.GroupBy.key(b.Snapshot)), newestFirst(a, b))
	})
	for i := 0; i < len(all); {
		end := i
		for end < len(all) && r.GroupBy.key(all[end].Snapshot) == r.GroupBy.key(all[i].Snapshot) {
			end++
		}
		r.keep(decideFixed(all[i:end], now))
		i = end
	}
	r.capPerVM(all)
	bytes := r.capBytes(all)
	out := Result{Decisions: make([]Decision, len(all)), Bytes: bytes}
	for i, d := range all {
		out.Decisions[i] = *d
	}
	return out
}

func newestFirst(a, b *Decision) int {
	return cmp.Or(b.Snapshot.Created.Compare(a.Snapshot.Created), cmp.Compare(a.Snapshot.ID, b.Snapshot.ID))
}

func (g Group) key(s Snapshot) string {
	switch {
	case g.All:
		return ""
	case g.Label != "":
		return s.Labels[g.Label]
	}
	return s.vm()
}

// vm identifies VMs: one from elsewhere is none of ours, whatever its id.
func (s Snapshot) vm() string {
	if s.Foreign {
		return "elsewhere\x00" + s.VM
	}
	return s.VM
}

func (g Group) name(s Snapshot) string {
	switch {
	case g.All || g.Label != "":
		return g.key(s)
	case s.Foreign:
		return s.VMName + " (from elsewhere)"
	}
	return s.VMName
}

// decideFixed decides what no rule can change and returns the rest.
func decideFixed(group []*Decision, now time.Time) []*Decision {
	var rest []*Decision
	for _, d := range group {
		s := &d.Snapshot
		switch {
		case s.Protected:
			d.fix("protected")
		case s.Needed != "":
			d.fix("needed by " + s.Needed)
		case s.Idle():
			d.fix("only there for a VM to sleep on, which none does: gc removes it")
		case s.Damaged:
			d.fix("damaged: only an explicit rm removes it")
		case s.Expires != nil && !s.Expires.After(now):
			d.leave("expired " + s.Expires.UTC().Format(time.RFC3339))
		case s.Created.After(now):
			d.fix("from the future, " + s.Created.UTC().Format(time.RFC3339))
		default:
			rest = append(rest, d)
		}
	}
	return rest
}

func (d *Decision) stay(reason string) {
	d.Keep, d.Reasons = true, append(d.Reasons, reason)
}

func (d *Decision) fix(reason string) {
	d.fixed = true
	d.stay(reason)
}

func (d *Decision) leave(reason string) {
	d.Keep, d.Reasons = false, []string{reason}
}

// free reports whether a cap may remove the snapshot.
func (d *Decision) free() bool { return d.Keep && !d.fixed }

func (l Label) matches(s Snapshot) bool {
	v, ok := s.Labels[l.Key]
	return ok && (l.Any || v == l.Value)
}

func (l Label) String() string {
	if l.Any {
		return l.Key
	}
	return fmt.Sprintf("%s=%s", l.Key, l.Value)
}
