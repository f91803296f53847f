package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// module collects one kind of object. Folder is where it lies below rootDir;
// "" is a place outside it.
type module struct {
	folder  string
	collect func(*collector, *plan) error
}

// modules are all that gc looks at. A folder of the store that stands neither
// here nor in handled fails a test: no kind of object can be forgotten.
var modules = []module{
	{"snapshots", (*collector).snapshots},
	{"blobs/sha256", func(c *collector, p *plan) error { return c.blobs(p, "blob", "blobs/sha256") }},
	{"images/blobs/sha256", func(c *collector, p *plan) error { return c.blobs(p, "image", "images/blobs/sha256") }},
	{"cache/memory", (*collector).cache},
	{"cache/fingerprints", (*collector).fingerprints},
	{"vms", (*collector).vms},
	{"trash", (*collector).trash},
	{"network", (*collector).networks},
	{"", (*collector).running},
	{"", (*collector).staging},
	{"", (*collector).rooms},
	{"", (*collector).notes},
	{"", (*collector).temporaries}, // last: a folder that goes takes its own along
}

// handled are folders whose leftovers are dealt with before the modules run
// (leases, ingest, journals) or after them (names), and roots that only their owner
// removes (pins).
var handled = []string{"leases", "ingest", "journals", "names", "pins"}

// plan looks at every kind of object and decides.
func (c *collector) plan(ctx context.Context, p *plan) error {
	if err := c.look(ctx); err != nil {
		return err
	}
	for _, m := range modules {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.collect(c, p); err != nil {
			return err
		}
	}
	return nil
}

// each visits the entries of a folder of the store.
func (c *collector) each(folder string, visit func(name, path string)) error {
	err := store.EachEntry(c.st.Path(folder), func(name []byte, _ uint64) {
		visit(string(name), c.st.Path(folder, string(name)))
	})
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// snapshots: a folder without a manifest was never published.
func (c *collector) snapshots(p *plan) error {
	return c.each("snapshots", func(name, path string) {
		empty := func() bool {
			_, err := os.Lstat(filepath.Join(path, "manifest.json"))
			return errors.Is(err, os.ErrNotExist)
		}
		if empty() {
			p.judge("snapshot", "snapshot:"+name, path, c.reasonOf("snapshot", name, "has no manifest"), empty)
		}
	})
}

// blobs are listed beside being judged; few of a million are judged by more than
// their name.
func (c *collector) blobs(p *plan, kind, folder string) error {
	batches := make(chan []string, 4)
	var listing errgroup.Group
	listing.Go(func() error { defer close(batches); return listNames(c.st.Path(folder), batches) })
	for batch := range batches {
		for _, name := range batch {
			o, ok := parseBlob(name)
			if ok && c.old != nil && !p.held(o) {
				c.keepOld(p, o, c.st.Path(folder, name))
			}
			if ok && (p.everyHolder || !p.see(o)) {
				p.judge(kind, "sha256:"+name, c.st.Path(folder, name), "no snapshot, VM, image, pin or living process names it", c.unused(kind, o))
			}
		}
	}
	if err := listing.Wait(); err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	return nil
}

// unused: no VMM stands on an image that no record names any more.
func (c *collector) unused(kind string, o object) func() bool {
	if kind != "image" {
		return nil
	}
	return func() bool {
		used, err := c.st.ImageInUse(o.digest())
		return !used && err == nil
	}
}

// namesAtOnce bounds what a folder of a million entries costs.
const namesAtOnce = 1024

// listNames gives the names in a folder, many at once, each batch cut from one
// text.
func listNames(folder string, batches chan<- []string) error {
	var text []byte
	var ends []int
	flush := func() {
		all, names, from := string(text), make([]string, len(ends)), 0
		for i, end := range ends {
			names[i], from = all[from:end], end
		}
		batches <- names
		text, ends = text[:0], ends[:0]
	}
	err := store.EachEntry(folder, func(name []byte, _ uint64) {
		text = append(text, name...)
		if ends = append(ends, len(text)); len(ends) == namesAtOnce {
			flush()
		}
	})
	flush()
	return err
}

// vms: a folder without a record is a creation that died, unless a VMM has its
// disks: one in another PID namespace, which nobody can end from here.
func (c *collector) vms(p *plan) error {
	return c.each("vms", func(name, path string) {
		free := func() bool {
			file, err := vm.Taken(path)
			return file == "" && err == nil
		}
		if o, ok := parseObject("vm:" + name); ok && !p.held(o) {
			p.judge("vm", "vm:"+name, path, c.reasonOf("vm", name, "has no record and nobody is making it"), free)
		}
		if note := vm.Forgotten(path); note != "" && c.idle(name) {
			p.victims = append(p.victims, victim{
				kind: "temporary", id: filepath.Join("vms", name, filepath.Base(note)), path: note, reason: "the VM is made", inStore: true,
				still: func() bool { return vm.Forgotten(path) != "" },
			})
		}
	})
}

func (c *collector) trash(p *plan) error {
	return c.each("trash", func(name, path string) {
		if name == c.sweep.Name() || c.st.IsTrace(name) || c.droppedTrace(name) { // it is accounted for already
			return
		}
		p.victims = append(p.victims, victim{kind: "trash", id: name, path: path, reason: "discarded by an earlier run or removal", bytes: store.FileBytes(path)})
	})
}

// idle: the VM is of this store and no verb holds its lock.
func (c *collector) idle(id string) bool {
	idle, _ := c.whileIdle(id, func() error { return nil })
	return idle
}

// whileIdle does something under the lock of a VM of this store, unless a verb
// holds it.
func (c *collector) whileIdle(id string, do func() error) (idle bool, err error) {
	f, err := os.OpenFile(c.st.Path("vms", id, "lock"), os.O_RDWR, 0)
	if err != nil {
		return false, nil // gone with its VM
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	return true, do()
}

// journals finishes the undoing of restores whose process died: a journal
// whose VM is named by no living lease.
func (c *collector) journals(ctx context.Context) error {
	files, err := c.st.JSONFiles("journals")
	if err != nil || len(files) == 0 || c.o.Journals == nil {
		return err
	}
	live, err := c.st.LeaseHoldings(ctx)
	if err != nil {
		return err
	}
	making := map[string]bool{}
	for _, h := range live {
		for _, id := range h.VMs {
			making[id] = true
		}
	}
	for _, path := range files {
		id, err := c.o.Journals.JournalVM(path)
		if errors.Is(err, os.ErrNotExist) || making[id] { // finished just now, or being made
			continue
		}
		if err != nil {
			return unreadable(err)
		}
		v := victim{kind: "journal", id: id, reason: "a restore that died half-way"}
		if !c.o.DryRun { // else its entry in the run folder is a victim
			ended, err := c.processesOf(ctx, id)
			if err != nil {
				return err
			}
			if err := c.undo(ctx, id, path); err != nil {
				c.fail(&v, fmt.Errorf("undo restore of VM %s: %w", id, err))
				continue
			}
			c.rep.Removed = append(c.rep.Removed, ended...)
		}
		c.rep.Removed = append(c.rep.Removed, Removed{v.kind, v.id, 0, v.reason})
	}
	return nil
}

// undo a dead restore; a network that its plugins cannot undo, and that the
// operator has given up, is dropped.
func (c *collector) undo(ctx context.Context, id, path string) error {
	err := c.o.Journals.Recover(ctx, path)
	if err == nil || c.o.Network == nil || !c.forgets(id) {
		return err
	}
	if err := c.o.Network.ForgetVM(ctx, id); err != nil {
		return err
	}
	return c.o.Journals.Recover(ctx, path)
}

// namesUnborn notes the VMs that the holder of a lease was making. One that cannot
// be read names nobody: what it was making is doubtful then.
func (c *collector) namesUnborn(lease string) {
	h, _, err := c.st.ReadLease(lease, 0)
	if err != nil {
		return
	}
	for _, id := range h.VMs {
		c.unborn[id] = true
	}
}

// droppedTrace: this run removed it, and has told so.
func (c *collector) droppedTrace(entry string) bool {
	for id := range c.dropped {
		if strings.HasPrefix(entry, "removed-snapshot-"+id+".") {
			return true
		}
	}
	return false
}
