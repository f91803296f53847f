package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// plan is what is marked and what goes.
type plan struct {
	holders    map[string][]holder // object (digest, vm:<id>) → who needs it
	victims    []victim
	kept       []Kept
	deadLeases int
}

type victim struct {
	kind, id, path, reason string
	bytes                  int64
	inStore                bool // discarded under the lock; else ended afterwards
}

// holder is who needs an object, in words, and its id where it is a snapshot.
type holder struct{ name, snapshot string }

func (p *plan) hold(object, by string) { p.add(object, holder{name: by}) }

func (p *plan) add(object string, by holder) { p.holders[object] = append(p.holders[object], by) }

// mark reads every root. Any that cannot be read ends the run.
func (c *collector) mark(ctx context.Context, p *plan, live []store.Holding) error {
	for _, h := range live {
		by := "lease " + h.Lease + " (" + h.Purpose + ")"
		for _, d := range h.Digests {
			p.hold(string(d), by)
		}
		for _, id := range h.VMs {
			p.hold("vm:"+id, by)
		}
	}
	for sn, err := range c.st.List(ctx) {
		if err != nil {
			return err
		}
		by := "snapshot " + string(sn.ID)
		if sn.Meta.Name != "" {
			by = fmt.Sprintf("snapshot %s (%s)", sn.Meta.Name, sn.ID)
		}
		for _, d := range store.Edges(sn) {
			p.add(string(d), holder{by, string(sn.ID)})
		}
		if err := c.intact(sn, by); err != nil {
			return err
		}
	}
	if err := c.markRecords(p); err != nil {
		return err
	}
	return c.markPins(p)
}

// intact refuses a dangling root: where a snapshot names a blob that is gone,
// something is wrong that a sweep would make worse. Each digest is looked for
// once.
func (c *collector) intact(sn *store.Snapshot, by string) error {
	for _, d := range store.Edges(sn) {
		if !c.present[d] && !exists(c.st.BlobPath(d)) && !exists(c.st.ImageBlobPath(d)) {
			return failure.Hint(failure.New(failure.Damaged, "%s names blob %s, which is missing", by, d),
				"cocoon snapshot verify; remove the snapshot or put the blob back")
		}
		c.present[d] = true
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// heldBy is what gc needs of a VM record, an image record and a pin.
type heldBy struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Images  []digest.Digest `json:"images"`
	Digests []digest.Digest `json:"digests"`
	Disks   []struct {
		Image digest.Digest `json:"image"`
	} `json:"disks"`
	Restore *struct {
		Memory digest.Digest `json:"memory"` // key below cache/memory
	} `json:"restore"`
}

func (c *collector) markRecords(p *plan) error {
	folders, err := os.ReadDir(c.st.Path("vms"))
	if err != nil {
		return err
	}
	for _, e := range folders {
		path := c.st.Path("vms", e.Name(), "record.json")
		r, err := readHolder(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		by := fmt.Sprintf("vm %s (%s)", r.Name, r.ID)
		p.hold("vm:"+filepath.Base(filepath.Dir(path)), by)
		for _, d := range r.Images {
			p.hold(string(d), by)
		}
		for _, d := range r.Disks {
			p.hold(string(d.Image), by)
		}
		if r.Restore != nil {
			p.hold(string(r.Restore.Memory), by)
		}
	}
	return nil
}

func (c *collector) markPins(p *plan) error {
	for _, kind := range []string{"images", "pins"} {
		entries, err := os.ReadDir(c.st.Path(kind))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) != ".json" {
				continue
			}
			path := c.st.Path(kind, e.Name())
			r, err := readHolder(path)
			if err != nil {
				return err
			}
			by := strings.TrimSuffix(kind, "s") + " " + strings.TrimSuffix(filepath.Base(path), ".json")
			if kind == "images" {
				p.hold(r.ID, by)
			}
			for _, d := range r.Digests {
				p.hold(string(d), by)
			}
		}
	}
	return nil
}

const holderLimit = 8 << 20

func readHolder(path string) (heldBy, error) {
	var r heldBy
	fi, err := os.Stat(path)
	if err != nil {
		return r, err
	}
	if fi.Size() > holderLimit {
		return r, failure.New(failure.Damaged, "%s has %d bytes", path, fi.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, failure.New(failure.Damaged, "%s: %w", path, err)
	}
	return r, nil
}

func (c *collector) deadLeases(p *plan, live []store.Holding) error {
	alive := map[string]bool{}
	for _, h := range live {
		alive[h.Lease] = true
	}
	for _, kind := range []string{"leases", "ingest"} {
		entries, err := os.ReadDir(c.st.Path(kind))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if alive[e.Name()] {
				continue
			}
			path := c.st.Path(kind, e.Name())
			v := victim{kind: strings.TrimSuffix(kind, "s"), id: e.Name(), path: path, bytes: store.FileBytes(path), reason: "its holder is dead"}
			if kind == "leases" {
				p.deadLeases++
			} else {
				// With its lease it is reaped; without one it is discarded here.
				_, err := os.Stat(c.st.Path("leases", e.Name()))
				v.inStore = errors.Is(err, os.ErrNotExist)
			}
			p.victims = append(p.victims, v)
		}
	}
	return nil
}
