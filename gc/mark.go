package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// plan is what is marked and what goes.
type plan struct {
	holders    map[string][]string // object (digest, vm:<id>) → who needs it
	victims    []victim
	kept       []Kept
	deadLeases int
}

type victim struct {
	kind, id, path, reason string
	bytes                  int64
	inStore                bool // discarded under the lock; else ended afterwards
}

func (p *plan) hold(object, by string) { p.holders[object] = append(p.holders[object], by) }

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
			p.hold(string(d), by)
		}
	}
	if err := c.markRecords(p); err != nil {
		return err
	}
	return c.markPins(p)
}

// heldBy is what gc needs of a VM record, an image record and a pin.
type heldBy struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Images  []digest.Digest `json:"images"`
	Digests []digest.Digest `json:"digests"`
}

func (c *collector) markRecords(p *plan) error {
	records, err := filepath.Glob(c.st.Path("vms", "*", "record.json"))
	if err != nil {
		return err
	}
	for _, path := range records {
		r, err := readHolder(path)
		if err != nil {
			return err
		}
		by := fmt.Sprintf("vm %s (%s)", r.Name, r.ID)
		p.hold("vm:"+filepath.Base(filepath.Dir(path)), by)
		for _, d := range r.Images {
			p.hold(string(d), by)
		}
	}
	return nil
}

func (c *collector) markPins(p *plan) error {
	for _, kind := range []string{"images", "pins"} {
		files, err := filepath.Glob(c.st.Path(kind, "*.json"))
		if err != nil {
			return err
		}
		for _, path := range files {
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
