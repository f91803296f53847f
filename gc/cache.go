package gc

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// cache: raw RAM stays as long as a snapshot has that RAM and the cap of the
// cache allows; above the cap the least recently used goes first. What a VM maps
// (it has a hard link) or a process is about to use stays in every case.
func (c *collector) cache(p *plan) error {
	all, err := ramcache.Files(c.st)
	if err != nil {
		return err
	}
	limit, total := c.o.CacheCap.Bytes(), int64(0)
	for _, f := range all {
		total += f.Bytes
	}
	reasons := map[digest.Digest]string{}
	for _, f := range all {
		if !c.roots.memory[f.Key] {
			reasons[f.Key] = "no snapshot has this RAM any more"
		}
	}
	needed := func(d digest.Digest) bool {
		o, ok := garbage.DigestKey(d)
		return ok && p.held(o)
	}
	for _, f := range ramcache.OverCap(withoutOrphans(all, reasons), needed, limit) {
		reasons[f.Key] = fmt.Sprintf("last used %s, the longest ago, and the cache holds %s of at most %s",
			f.Used.UTC().Format(time.RFC3339), units.BytesSize(float64(total)), units.BytesSize(float64(limit)))
	}
	for _, f := range all {
		c.cached(p, f, reasons[f.Key])
	}
	return c.unfinished(p)
}

// withoutOrphans leaves out what goes anyway, so that it is not in the way of
// what may stay.
func withoutOrphans(all []ramcache.File, orphans map[digest.Digest]string) []ramcache.File {
	var rest []ramcache.File
	for _, f := range all {
		if orphans[f.Key] == "" || f.Mapped {
			rest = append(rest, f)
		}
	}
	return rest
}

// cached judges one whole file; reason is why it would go, "" when it may stay.
func (c *collector) cached(p *plan, f ramcache.File, reason string) {
	unused := func() bool { // neither mapped nor used since
		var st unix.Stat_t
		return unix.Lstat(f.Path, &st) == nil && st.Nlink == 1 && time.Unix(st.Mtim.Unix()).Equal(f.Used)
	}
	o, ok := garbage.DigestKey(f.Key)
	if ok {
		switch {
		case f.Mapped:
			p.hold(o, p.by(holder{name: "a VM that maps it"}), false)
		case reason == "":
			p.hold(o, p.by(holder{name: "the cache, last used " + f.Used.UTC().Format(time.RFC3339)}), false)
		}
	}
	c.Judge(garbage.Object{Kind: garbage.Cache, ID: string(f.Key), Key: o, Path: f.Path, Reason: reason, InStore: true, Still: unused})
}

// unfinished takes files whose maker died: he held their lock.
func (c *collector) unfinished(p *plan) error {
	return c.each("cache/memory", func(name, path string) {
		if !strings.HasSuffix(name, ".new") {
			return
		}
		dead := func() bool {
			held, err := filelock.Held(path)
			return err == nil && !held
		}
		if _, err := os.Lstat(path); err == nil && dead() {
			c.Judge(garbage.Object{Kind: garbage.Cache, ID: name, Path: path, Reason: "its maker is dead", InStore: true, Still: dead})
		}
	})
}
