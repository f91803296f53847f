package repair

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// VerifyOptions of Verify.
type VerifyOptions struct {
	ReadData bool // read and hash every byte, not only structure and sizes
	// Part of Parts reads only the blobs of that slice, 1 to Parts, told by their
	// digest: Parts runs read everything once. Parts 0 is everything.
	Part, Parts int
	// Quarantine marks the affected snapshots: nothing restores, exports or
	// builds on them until they are found sound again.
	Quarantine bool
}

// reads says whether a blob's bytes are looked at.
func (o VerifyOptions) reads(d digest.Digest) bool {
	if !o.ReadData || o.Parts <= 1 {
		return o.ReadData
	}
	first, err := strconv.ParseUint(d.Encoded()[:8], 16, 64)
	return err == nil && first%uint64(o.Parts) == uint64(o.Part-1)
}

// Damage is one object that is not what a snapshot needs.
type Damage struct {
	Object  string     `json:"object"`
	Want    string     `json:"want"`
	Got     string     `json:"got"`
	Affects []store.ID `json:"affects"`
}

// Resized is a disk whose page map has another size than its snapshot says.
type Resized struct {
	Snapshot store.ID `json:"snapshot"`
	Disk     int      `json:"disk"` // index
	Said     int64    `json:"said"` // bytes
	Bytes    int64    `json:"bytes"`
}

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Checked int      `json:"checked"` // objects
	Damaged []Damage `json:"damaged"`
	// Resized are disks that are whole but of another size than their snapshot
	// says; a restore takes the size of the page map.
	Resized []Resized `json:"resized,omitempty"`
	// Quarantined are the snapshots that this run marked.
	Quarantined []store.ID `json:"quarantined,omitempty"`
	// Unopened are encrypted snapshots whose key is missing: their blobs were
	// checked like all others, but not what their page maps name.
	Unopened   []store.ID `json:"unopened,omitempty"`
	BytesRead  int64      `json:"bytesRead"`
	DurationMs float64    `json:"durationMs"`
}

// MetaObject begins the name of a meta.json in a Damage.
const MetaObject = "meta of snapshot "

// verifier looks at each object once, however many snapshots name it.
type verifier struct {
	st   *store.Store
	o    VerifyOptions
	rep  *VerifyReport
	seen map[string]int // object → index in rep.Damaged, -1 when sound
}

// Verify checks snapshots; no ids means all. Damage is reported, not an error.
func Verify(ctx context.Context, st *store.Store, ids []store.ID, o VerifyOptions) (*VerifyReport, error) {
	start := time.Now()
	if o.Parts < 0 || o.Parts > 0 && (o.Part < 1 || o.Part > o.Parts) {
		return nil, failure.New(failure.Usage, "verify part %d of %d: 1 to %d", o.Part, o.Parts, max(o.Parts, 1))
	}
	listed := ids == nil
	if listed {
		var err error
		if ids, err = st.IDs(); err != nil {
			return nil, err
		}
	}
	v := &verifier{st: st, o: o, rep: &VerifyReport{Damaged: []Damage{}}, seen: map[string]int{}}
	for _, id := range ids {
		err := v.settled(ctx, id)
		if listed && errors.Is(err, failure.NotFound) {
			err = v.without(ctx, id)
		}
		if err != nil {
			return nil, err
		}
		durable.Step("store.verify.snapshot")
	}
	if o.Quarantine {
		if err := quarantineDamaged(ctx, st, v.rep); err != nil {
			return nil, err
		}
	}
	v.rep.DurationMs = float64(time.Since(start).Microseconds()) / 1000
	return v.rep, nil
}

// without is a snapshot that was listed and has no manifest: it was removed
// meanwhile, or only its folder is there, as in a backup that is half back. That one
// keeps the others from nothing.
func (v *verifier) without(ctx context.Context, id store.ID) error {
	if _, err := os.Lstat(v.st.Path("snapshots", string(id))); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return v.object(ctx, "snapshot "+string(id), id, func() (string, string, error) { return "a manifest.json", "none", nil })
}

// settled checks one snapshot. What is missing of one that was replaced or
// removed while it was looked at is no damage: it is looked at again.
func (v *verifier) settled(ctx context.Context, id store.ID) error {
	for {
		before := len(v.rep.Damaged)
		sn, err := v.st.Get(ctx, id)
		if err := v.snapshot(ctx, id, sn, err); err != nil {
			return err
		}
		if sn == nil || len(v.rep.Damaged) == before || v.st.Current(sn) {
			return nil
		}
		v.forget(id, before)
		if _, err := v.st.Get(ctx, id); errors.Is(err, failure.NotFound) {
			return nil
		}
	}
}

// forget takes back what was found since there were n damages.
func (v *verifier) forget(id store.ID, n int) {
	for object, i := range v.seen {
		if i >= n {
			delete(v.seen, object)
		}
	}
	v.rep.Damaged = v.rep.Damaged[:n]
	v.rep.Unopened = slices.DeleteFunc(v.rep.Unopened, func(of store.ID) bool { return of == id })
	v.rep.Resized = slices.DeleteFunc(v.rep.Resized, func(r Resized) bool { return r.Snapshot == id })
	for i := range v.rep.Damaged {
		v.rep.Damaged[i].Affects = slices.DeleteFunc(v.rep.Damaged[i].Affects, func(of store.ID) bool { return of == id })
	}
}

func (v *verifier) snapshot(ctx context.Context, id store.ID, sn *store.Snapshot, err error) error {
	if sn != nil && errors.Is(err, failure.Damaged) {
		lost := err.Error()
		err = v.object(ctx, MetaObject+string(id), id, func() (string, string, error) { return "readable", lost, nil })
	}
	if errors.Is(err, failure.Damaged) || errors.Is(err, failure.Incompatible) {
		return v.object(ctx, "snapshot "+string(id), id, func() (string, string, error) { return "readable", err.Error(), nil })
	}
	if err != nil {
		return err
	}
	for _, d := range append([]store.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
		if err := v.blob(ctx, id, v.st.BlobPath(d.Digest), d); err != nil {
			return err
		}
	}
	for _, im := range sn.Spec.Images {
		d := store.Descriptor{Digest: im.Digest, Size: im.Bytes}
		if err := v.blob(ctx, id, v.st.ImageBlobPath(im.Digest), d); err != nil {
			return err
		}
	}
	err = contents.Of(v.st, sn).Unlock(ctx)
	switch {
	case keyring.IsMissing(err):
		v.rep.Unopened = append(v.rep.Unopened, id)
		return nil
	case errors.Is(err, failure.Damaged):
		return v.object(ctx, "config of snapshot "+string(id), id, func() (string, string, error) { return "authentic", err.Error(), nil })
	case err != nil:
		return err
	}
	return v.maps(ctx, sn)
}

// maps checks that every pack of every page map is named by the manifest, so
// that pushing or exporting a manifest takes all that is needed.
func (v *verifier) maps(ctx context.Context, sn *store.Snapshot) error {
	named := map[digest.Digest]bool{}
	for _, l := range sn.Manifest.Layers {
		named[l.Digest] = true
	}
	read := map[digest.Digest]*pack.Map{}
	for _, d := range sn.Spec.PageMaps() {
		m, rerr := contents.Of(v.st, sn).Map(ctx, d)
		read[d] = m
		err := v.objectUnder(ctx, sn.Spec.Key, "page map "+string(d), sn.ID, func() (string, string, error) {
			if rerr != nil {
				return "readable", rerr.Error(), nil
			}
			for _, p := range m.Packs {
				if !named[p] {
					return "packs in the manifest", "unnamed pack " + string(p), nil
				}
			}
			return "", "", nil
		})
		if err != nil {
			return err
		}
	}
	return v.sizes(ctx, sn, read)
}

// sizes compares what the snapshot says of its RAM and disks with their page
// maps. Maps that cannot be read are damage already.
func (v *verifier) sizes(ctx context.Context, sn *store.Snapshot, read map[digest.Digest]*pack.Map) error {
	for _, r := range sn.Spec.Memory {
		m := read[r.Map]
		if m == nil || m.Bytes == r.Bytes {
			continue
		}
		object := fmt.Sprintf("RAM at %#x of snapshot %s", r.GPA, sn.ID)
		err := v.object(ctx, object, sn.ID, func() (string, string, error) {
			return fmt.Sprintf("%d bytes", r.Bytes), fmt.Sprintf("%d bytes", m.Bytes), nil
		})
		if err != nil {
			return err
		}
	}
	for _, d := range sn.Spec.Disks {
		if m := read[d.Map]; m != nil && int64(m.Bytes) != d.Bytes {
			v.rep.Resized = append(v.rep.Resized, Resized{sn.ID, d.Index, d.Bytes, int64(m.Bytes)})
		}
	}
	return nil
}

// object runs a check once per object and notes every snapshot it affects.
func (v *verifier) object(ctx context.Context, name string, id store.ID, check func() (want, got string, err error)) error {
	return v.objectUnder(ctx, "", name, id, check)
}

// objectUnder runs a check whose answer is another for snapshots of another key.
func (v *verifier) objectUnder(ctx context.Context, key, name string, id store.ID, check func() (want, got string, err error)) error {
	seen := name + " " + key
	if i, ok := v.seen[seen]; ok {
		if i >= 0 {
			v.rep.Damaged[i].Affects = append(v.rep.Damaged[i].Affects, id)
		}
		return nil
	}
	want, got, err := check()
	if want != got && err == nil {
		err = ctx.Err() // what could not be read because we were interrupted is no damage
	}
	if err != nil {
		return err
	}
	v.rep.Checked++
	v.seen[seen] = -1
	if want != got {
		v.seen[seen] = len(v.rep.Damaged)
		v.rep.Damaged = append(v.rep.Damaged, Damage{name, want, got, []store.ID{id}})
	}
	return nil
}

func (v *verifier) blob(ctx context.Context, id store.ID, path string, d store.Descriptor) error {
	return v.object(ctx, "blob "+string(d.Digest), id, func() (string, string, error) {
		if err := ctx.Err(); err != nil {
			return "", "", err
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return "present", "missing", nil
		}
		if err != nil {
			return "", "", fmt.Errorf("verify: %w", err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return "", "", err
		}
		if fi.Size() != d.Size {
			return fmt.Sprintf("%d bytes", d.Size), fmt.Sprintf("%d bytes", fi.Size()), nil
		}
		if !v.o.reads(d.Digest) {
			return "", "", nil
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		v.rep.BytesRead += n
		if err != nil {
			return string(d.Digest), "unreadable: " + err.Error(), nil
		}
		return d.Digest.Encoded(), hex.EncodeToString(h.Sum(nil)), nil
	})
}
