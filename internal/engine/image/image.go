// Package image manages the read-only files of VMs: base disks, kernels,
// firmware, initramfs.
//
// A blob is a file images/blobs/sha256/<hex>, 0400, named by the digest of its
// contents; a record images/<name>.json gives one a name and a kind. Blobs are
// shared by VM records and snapshots, which reference them by digest. Removing an
// image removes its record; gc removes the blob once nothing else references it.
//
// Invariants: a digest is leased before its blob is looked for; an imported file
// is copied first and parsed from the copy, by magic bytes and with every length
// checked; an image that anything holds is not removed.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Store of images, inside a snapshot store.
type Store struct{ st *store.Store }

// New gives access to the images of a store.
func New(st *store.Store) *Store { return &Store{st} }

// Record names one imported image.
type Record struct {
	ID           digest.Digest `json:"id"` // of the blob
	Name         string        `json:"name"`
	Kind         string        `json:"kind"`   // disk, kernel, initramfs
	Format       string        `json:"format"` // of the file that was imported
	Bytes        int64         `json:"bytes"`
	VirtualBytes int64         `json:"virtualBytes"`
	Created      time.Time     `json:"created"`
}

var recordFile = durable.Document{Name: "image record", Limit: 64 << 10}

// nameLength bounds the name of an image, characters.
const nameLength = 128

// Path is the path of a blob.
func (i *Store) Path(d digest.Digest) string { return i.st.ImageBlobPath(d) }

// Blob imports one file without naming it; role is kernel, firmware, initramfs or
// disk.
func (i *Store) Blob(ctx context.Context, l *store.Lease, path, role string) (store.ImageRef, error) {
	in, err := i.stage(ctx, l, path)
	if err != nil {
		return store.ImageRef{}, err
	}
	return in.as(ctx, path, role)
}

// BlobOf is Blob for an open file.
func (i *Store) BlobOf(ctx context.Context, l *store.Lease, f *os.File, role string) (store.ImageRef, error) {
	in, err := i.stageOpened(ctx, l, f)
	if err != nil {
		return store.ImageRef{}, err
	}
	return in.as(ctx, f.Name(), role)
}

// as keeps a file imported from path, if it suits the role.
func (s *staged) as(ctx context.Context, path, role string) (store.ImageRef, error) {
	if err := s.requireBootable(path, role); err != nil {
		return store.ImageRef{}, errors.Join(err, s.drop())
	}
	d, n, err := s.keep(ctx)
	return store.ImageRef{Digest: d, Role: role, Bytes: n}, err
}

// Import imports a file and names it; "" names it after the file.
func (i *Store) Import(ctx context.Context, l *store.Lease, path, name string) (*Record, error) {
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	if !spelling.Name(name, nameLength) {
		return nil, failure.New(failure.Usage, "image name %q", name)
	}
	if _, err := os.Stat(i.recordPath(name)); err == nil {
		return nil, failure.New(failure.Conflict, "image name %q is taken", name)
	}
	in, err := i.stage(ctx, l, path)
	if err != nil {
		return nil, err
	}
	rec := &Record{Name: name, Created: time.Now().UTC()}
	if rec.Kind, rec.Format, err = in.recognise(); err != nil {
		return nil, errors.Join(fmt.Errorf("import %s: %w", path, err), in.drop())
	}
	if rec.Format == "qcow2" {
		if in, err = in.flatten(ctx); err != nil {
			return nil, fmt.Errorf("import %s: %w", path, err)
		}
	}
	if rec.ID, rec.Bytes, err = in.keep(ctx); err != nil {
		return nil, err
	}
	rec.VirtualBytes = rec.Bytes
	return rec, i.write(l, rec)
}

// write publishes the record; of two at once one wins.
func (i *Store) write(l *store.Lease, rec *Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := i.st.Path("ingest", l.ID(), "record.json")
	if err := recordFile.Write(tmp, b, 0o600); err != nil {
		return err
	}
	err = durable.Publish(tmp, i.recordPath(rec.Name))
	if errors.Is(err, os.ErrExist) {
		return failure.New(failure.Conflict, "image name %q is taken", rec.Name)
	}
	return err
}

func (i *Store) recordPath(name string) string { return i.st.Path("images", name+".json") }

// List reads every record, by name.
func (i *Store) List(ctx context.Context) ([]*Record, error) {
	entries, err := os.ReadDir(i.st.Path("images"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []*Record
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !spelling.Name(name, nameLength) {
			continue
		}
		rec, err := i.read(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
}

func (i *Store) read(name string) (*Record, error) {
	b, err := recordFile.Read(i.recordPath(name))
	if err != nil {
		return nil, err
	}
	return decode(b, name)
}

// decode reads the record of the image of this name.
func decode(b []byte, name string) (*Record, error) {
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, failure.New(failure.Damaged, "record of image %s is not readable: %w", name, err)
	}
	if rec.Name != name || rec.ID.Validate() != nil || rec.ID.Algorithm() != digest.SHA256 {
		return nil, failure.New(failure.Damaged, "record of image %s says name %.40q, digest %.80q", name, rec.Name, string(rec.ID))
	}
	return &rec, nil
}

// Garbage is the Source of images that have a name.
func Garbage(st *store.Store) garbage.Source {
	return garbage.Source{
		Folder: "images",
		Files:  func() ([]string, error) { return layout.JSONFiles(st.Path("images")) },
		Read: func(path string) (garbage.Root, error) {
			b, err := recordFile.Read(path)
			if err != nil {
				return garbage.Root{}, err
			}
			name := strings.TrimSuffix(filepath.Base(path), ".json")
			rec, err := decode(b, name)
			if err != nil {
				return garbage.Root{}, err
			}
			if err := durable.DecodeAll(b, &Record{}); err != nil {
				return garbage.Root{}, failure.New(failure.Damaged, "record of image %s: %w: a newer cocoon wrote it, or it is damaged", name, err)
			}
			return garbage.Root{Kind: garbage.Image, ID: name, Digests: []digest.Digest{rec.ID}}, nil
		},
	}
}

// Blobs is the Source of image blobs. One in use by a VMM stays, even if no
// record names it any more.
func Blobs(st *store.Store) garbage.Source {
	return garbage.Source{Folder: "images/blobs/sha256", Blobs: garbage.Image, Free: func(d digest.Digest) bool {
		used, err := New(st).InUse(d)
		return !used && err == nil
	}}
}

// Get finds an image by name, digest, or unique digest prefix of at least three.
func (i *Store) Get(ctx context.Context, ref string) (*Record, error) {
	all, err := i.List(ctx)
	if err != nil {
		return nil, err
	}
	if at := slices.IndexFunc(all, func(r *Record) bool { return r.Name == ref }); at >= 0 {
		return all[at], nil
	}
	return spelling.Find("image", strings.TrimPrefix(ref, "sha256:"), all, func(r *Record) string { return r.ID.Encoded() })
}

// Named is Get for callers that need only the blob and its role.
func (i *Store) Named(ctx context.Context, ref string) (name string, im store.ImageRef, err error) {
	rec, err := i.Get(ctx, ref)
	if err != nil {
		return "", im, err
	}
	return rec.Name, store.ImageRef{Digest: rec.ID, Role: rec.Kind, Bytes: rec.Bytes}, nil
}

// Remove drops an image's record unless something holds its blob.
func (i *Store) Remove(ctx context.Context, ref string, holders func(context.Context, digest.Digest) ([]string, error)) error {
	rec, err := i.Get(ctx, ref)
	if err != nil {
		return err
	}
	who, err := holders(ctx, rec.ID)
	if err != nil {
		return err
	}
	if len(who) > 0 {
		return failure.New(failure.Conflict, "image %s is held by %s", rec.Name, strings.Join(who, ", "))
	}
	trashed, err := i.st.Trash().Remove("image", rec.Name, i.recordPath(rec.Name))
	if err != nil {
		return err
	}
	return durable.SyncParents(i.recordPath(rec.Name), trashed)
}
