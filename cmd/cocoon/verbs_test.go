package main

import (
	"os"
	"path/filepath"
)

// verb is a command that works on what the other one of a pair works on: the
// snapshot "target" or the VM "web".
type verb struct {
	name   string
	before func(p *pairs, role string) // makes what it needs besides; may be nil
	args   func(role string) []string
	on     func(p *pairs, role string) []string // the same, where it depends on the host
	vms    func(role string) []string           // names that success makes
	snap   func(role string) string
	after  func(p *pairs, role string, ok bool) // looks at what it worked on, however it ended; may be nil
	// damages: a pack of target is damaged beforehand, and its snapshots are in
	// quarantine.
	damages bool
}

// argsOf a verb that works on this host.
func (p *pairs) argsOf(v verb, role string) []string {
	if v.on != nil {
		return v.on(p, role)
	}
	return v.args(role)
}

func fixed(args ...string) func(string) []string { return func(string) []string { return args } }

// verbs of the pairs. A verb that is added here is held at each of its steps
// beside every other, and beside itself.
var verbs = []verb{
	{
		name: "create",
		args: func(r string) []string {
			return []string{"snapshot", "create", "web", "new-" + r, "--parent", "target"}
		},
		snap: func(r string) string { return "new-" + r },
	},
	{
		name: "import",
		args: func(r string) []string { return []string{"snapshot", "import", "folder", "--name", "imp-" + r} },
		snap: func(r string) string { return "imp-" + r },
	},
	{name: "rm", args: fixed("snapshot", "rm", "target")},
	{
		name: "restore",
		args: func(r string) []string { return []string{"vm", "create", "r-" + r, "--from-snapshot", "target"} },
		vms:  func(r string) []string { return []string{"r-" + r} },
	},
	{
		name: "clone",
		args: func(r string) []string {
			return []string{"vm", "create", "c-" + r, "--from-snapshot", "target", "--count", "2"}
		},
		vms: func(r string) []string { return []string{"c-" + r + "-1", "c-" + r + "-2"} },
	},
	{name: "prune", args: fixed("snapshot", "prune", "--keep-last", "100")},
	{name: "gc", args: fixed("gc")},
	{
		name:   "repack",
		before: func(p *pairs, r string) { p.worn("web", "worn-"+r) },
		args:   fixed(repackAll...),
	},
	{name: "repair", args: fixed("system", "repair")},
	{
		name:   "vm restore",
		before: func(p *pairs, r string) { p.awake("x-" + r) },
		args:   func(r string) []string { return []string{"vm", "restore", "x-" + r, "target", "--from-other"} },
		after:  func(p *pairs, r string, _ bool) { p.counts("x-" + r) },
	},
	{
		name: "pull",
		before: func(p *pairs, r string) {
			p.must("snapshot", "create", "web", "pulled-"+r, "--parent", "target")
			p.must("snapshot", "push", "pulled-"+r, p.registry()+"/vm:"+r)
			p.must("snapshot", "rm", "pulled-"+r)
		},
		on: func(p *pairs, r string) []string {
			return []string{"snapshot", "pull", p.registry() + "/vm:" + r, "pulled-" + r}
		},
		snap: func(r string) string { return "pulled-" + r },
	},
	{name: "verify", args: fixed("snapshot", "verify", "--all", "--read-data")},
	{
		name:   "suspend",
		before: func(p *pairs, r string) { p.awake("s-" + r) },
		args:   func(r string) []string { return []string{"vm", "suspend", "s-" + r} },
		after:  func(p *pairs, r string, ok bool) { p.sleptOrRuns("s-"+r, ok, "suspended") },
	},
	{
		name: "wake",
		before: func(p *pairs, r string) {
			p.awake("w-" + r)
			p.must("vm", "suspend", "w-"+r)
			p.asleep["w-"+r] = p.tick("w-" + r)
		},
		args:  func(r string) []string { return []string{"vm", "start", "w-" + r} },
		after: func(p *pairs, r string, ok bool) { p.sleptOrRuns("w-"+r, ok, "running") },
	},
	{ // a repair that has more to mend than what is derived
		name: "heal",
		args: fixed("system", "repair"),
		after: func(p *pairs, _ string, ok bool) {
			if !ok {
				p.must("system", "repair")
			}
		},
		damages: true,
	},
}

// awake makes a VM whose guest has begun to count, with a disk of its own: else
// it could be that all its pages are in the store already, by the same count of
// another guest, and nothing is to be written.
func (p *pairs) awake(name string) {
	p.t.Helper()
	disk := make([]byte, 8<<20)
	copy(disk[len(disk)/2:], name)
	p.write(name+".raw", disk)
	p.must("vm", "create", name, "--kernel", "guest.elf", "--disk", name+".raw", "--memory", "64M", "--start")
	p.counts(name)
}

// sleptOrRuns: a VM that was to fall asleep or to wake is in the state that was
// acknowledged, and in one of the two if nothing was. Asleep it can be woken, and
// goes on where it was; the log of a wake that failed does not say where.
func (p *pairs) sleptOrRuns(name string, ok bool, acknowledged string) {
	p.t.Helper()
	v := p.vm(name)
	last, slept := p.asleep[name]
	switch {
	case ok && v.State != acknowledged, v.State != "suspended" && v.State != "running":
		p.t.Errorf("VM %s is %s (%s), acknowledged %v", name, v.State, v.LastError, ok)
		return
	case v.State == "suspended":
		if !slept {
			last = p.tick(name)
		}
		p.must("vm", "start", name)
		p.goesOn(name, last)
	case slept:
		p.goesOn(name, last)
	default:
		p.counts(name)
	}
}

func (p *pairs) write(name string, b []byte) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.work, name), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}
