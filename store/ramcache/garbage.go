package ramcache

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// Garbage is the Source of the cache.
func (c Cache) Garbage() garbage.Source {
	return garbage.Source{Folder: "cache/memory", Objects: func(_ context.Context, r garbage.Run) error { return c.collect(r) }}
}

// collect: raw RAM stays as long as a snapshot has that RAM and the cap of the
// cache allows; above the cap the least recently used goes first. What a VM maps
// (it has a hard link) or a process is about to use stays in every case.
func (c Cache) collect(r garbage.Run) error {
	all, err := Files(c.Store)
	if err != nil {
		return err
	}
	limit, total := c.Cap.Bytes(), int64(0)
	for _, f := range all {
		total += f.Bytes
	}
	reasons := map[digest.Digest]string{}
	for _, f := range all {
		if ram, ok := garbage.RAMKey(f.Key); ok && !r.Held(ram) {
			reasons[f.Key] = "no snapshot has this RAM any more"
		}
	}
	needed := func(d digest.Digest) bool {
		key, ok := garbage.DigestKey(d)
		return ok && r.Held(key)
	}
	for _, f := range OverCap(withoutOrphans(all, reasons), needed, limit) {
		reasons[f.Key] = fmt.Sprintf("last used %s, the longest ago, and the cache holds %s of at most %s",
			f.Used.UTC().Format(time.RFC3339), units.BytesSize(float64(total)), units.BytesSize(float64(limit)))
	}
	for _, f := range all {
		judge(r, f, reasons[f.Key])
	}
	return c.collectUnfinished(r)
}

// withoutOrphans leaves out what goes anyway, so that it is not in the way of
// what may stay.
func withoutOrphans(all []File, orphans map[digest.Digest]string) []File {
	var rest []File
	for _, f := range all {
		if orphans[f.Key] == "" || f.Mapped {
			rest = append(rest, f)
		}
	}
	return rest
}

// judge judges one whole file; reason is why it would go, "" when it may stay.
func judge(r garbage.Run, f File, reason string) {
	unused := func() bool { // neither mapped nor used since
		var st unix.Stat_t
		return unix.Lstat(f.Path, &st) == nil && st.Nlink == 1 && time.Unix(st.Mtim.Unix()).Equal(f.Used)
	}
	key, ok := garbage.DigestKey(f.Key)
	switch {
	case !ok:
	case f.Mapped:
		r.Hold(key, "a VM that maps it")
	case reason == "":
		r.Hold(key, "the cache, last used "+f.Used.UTC().Format(time.RFC3339))
	}
	r.Judge(garbage.Object{Kind: garbage.Cache, ID: string(f.Key), Key: key, Path: f.Path, Reason: reason, InStore: true, Still: unused})
}

// collectUnfinished takes files whose maker died: it held their lock.
func (c Cache) collectUnfinished(r garbage.Run) error {
	entries, err := os.ReadDir(c.Store.Path("cache", "memory"))
	if err != nil {
		return fmt.Errorf("list the cache: %w", err)
	}
	for _, e := range entries {
		path := c.Store.Path("cache", "memory", e.Name())
		if !strings.HasSuffix(path, unfinished("")) {
			continue
		}
		dead := func() bool {
			held, err := filelock.Held(path)
			return err == nil && !held
		}
		if _, err := os.Lstat(path); err == nil && dead() {
			r.Judge(garbage.Object{Kind: garbage.Cache, ID: e.Name(), Path: path, Reason: "its maker is dead", InStore: true, Still: dead})
		}
	}
	return nil
}
