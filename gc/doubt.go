package gc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Doubtful is an object that no root names, but that may still be the last copy
// of something: its owner may only be temporarily missing. It stays until a grace
// period is over, so that it is whole again as soon as its owner is back.
type Doubtful struct {
	Kind   garbage.Kind `json:"kind"`
	ID     string       `json:"id"`
	Bytes  int64        `json:"bytes"`
	Reason string       `json:"reason"`
	Since  time.Time    `json:"since"`
	Until  *time.Time   `json:"until"` // null: until it is removed
}

// doubts finds what is doubtful and holds it for its grace period. It runs after
// marking and before the objects are judged, which takes everything not held.
func (c *collector) doubts(ctx context.Context, p *plan) error {
	held := func(k garbage.Key) bool { return p.held(k) || c.unborn[k] }
	for _, src := range c.o.Sources {
		if src.Doubts == nil {
			continue
		}
		if err := src.Doubts(ctx, held, func(d garbage.Doubt) { c.doubt(p, d) }); err != nil {
			return fmt.Errorf("gc: %w", err)
		}
	}
	return c.each("snapshots", func(name, path string) {
		o, ok := garbage.SnapshotKey(name)
		if _, read := c.roots.named[store.ID(name)]; !ok || read || p.held(o) {
			return
		}
		if entries, err := os.ReadDir(path); err != nil || len(entries) == 0 || exists(filepath.Join(path, "manifest.json")) {
			return
		}
		c.doubt(p, garbage.Doubt{Kind: garbage.Snapshot, ID: name, Key: o, Reason: "has no manifest", Path: path})
	})
}

// doubt holds an object whose grace period, which begins when gc first reports
// it, is not over.
func (c *collector) doubt(p *plan, of garbage.Doubt) {
	key := doubtKey(of.Kind, of.ID)
	d := Doubtful{Kind: of.Kind, ID: of.ID, Reason: of.Reason, Since: c.started, Bytes: hostfacts.FileBytes(of.Path)}
	if c.mem.known != nil {
		if since, told := c.mem.known.Doubtful[key]; told {
			d.Since = since
		}
	}
	c.next.Doubtful[key] = d.Since
	until := d.Since.Add(c.o.Grace)
	if !c.started.Before(until) {
		return
	}
	d.Until = &until
	c.rep.Doubtful = append(c.rep.Doubtful, d)
	p.hold(of.Key, p.by(holder{name: "nobody; it " + d.Reason + ", and stays until " + until.Format(time.DateTime)}), false)
}

// doubtKey is its name in the account.
func doubtKey(kind garbage.Kind, id string) string { return string(kind) + "/" + id }

// reasonOf is why an object goes after its grace period.
func (c *collector) reasonOf(kind garbage.Kind, id, reason string) string {
	if since, doubted := c.next.Doubtful[doubtKey(kind, id)]; doubted {
		delete(c.next.Doubtful, doubtKey(kind, id))
		return fmt.Sprintf("%s since %s", reason, since.Format(time.DateTime))
	}
	return reason
}

// old judges unreferenced blobs in a store of which nothing was noted before:
// those that existed then may be needed by snapshots that are not back yet.
type old struct {
	before, until time.Time
	holder        uint32
	count         int
	bytes         int64
}

// keepOld holds a blob that is old.
func (c *collector) keepOld(p *plan, o garbage.Key, path string) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || !time.Unix(st.Ctim.Unix()).Before(c.old.before) {
		return
	}
	if c.old.count == 0 {
		c.old.holder = p.by(holder{name: "nothing; it existed before this store's history was noted, and stays until " + c.old.until.Format(time.DateTime)})
	}
	c.old.count++
	c.old.bytes += st.Blocks * 512
	p.hold(o, c.old.holder, false)
}

// tellOld reports the old blobs in one line.
func (c *collector) tellOld() {
	if c.old == nil || c.old.count == 0 {
		return
	}
	until := c.old.until
	c.rep.Doubtful = append(c.rep.Doubtful, Doubtful{
		Kind: garbage.Blob, ID: fmt.Sprintf("%d blobs", c.old.count), Bytes: c.old.bytes, Since: c.old.before, Until: &until,
		Reason: "are not referenced, and existed before this store's history was noted",
	})
}

// doubtBed reports a snapshot of a suspended VM of which it is unknown whether it
// was woken: it may be the only copy of its RAM.
func (c *collector) doubtBed(b sleep.Bed) {
	key := doubtKey(garbage.Snapshot, string(b.Snapshot))
	since := c.started
	if c.mem.known != nil {
		if told, ok := c.mem.known.Doubtful[key]; ok {
			since = told
		}
	}
	c.next.Doubtful[key] = since
	c.rep.Doubtful = append(c.rep.Doubtful, Doubtful{
		Kind: garbage.Snapshot, ID: string(b.Snapshot), Since: since, Bytes: hostfacts.FileBytes(c.st.Path("snapshots", string(b.Snapshot))),
		Reason: "is the RAM of VM " + b.VM + ", which does not sleep on it and shows no sign that it was woken: put vms/" + b.VM + " back, or remove it with " + hint.Remove.Of(string(b.Snapshot)),
	})
}
