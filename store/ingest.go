package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/pack/packer"
	"github.com/cocoonv2/cocoon/store/space"
)

// Ingest is an unpublished snapshot. Its files lie in ingest/<lease>/ and go
// with the lease; its blobs are named by the lease before they are looked for.
type Ingest struct {
	st     *Store
	lease  *Lease
	id     ID
	dir    string
	writer *packer.Writer
	family []packer.Known // open until the ingest ends

	mu     sync.Mutex
	layers []Descriptor // in the order in which they came
	files  int

	key     *keyring.Key // of this snapshot; nil: plain. Guarded by mu, as the next
	decided bool

	reserve *space.Reserve
}

// Ingest begins a snapshot under a lease.
func (s *Store) Ingest(ctx context.Context, l *Lease) (*Ingest, error) {
	in := &Ingest{st: s, lease: l, id: ID(spelling.NewID()), dir: s.Path("ingest", l.ID())}
	in.reserve = s.Space().Reserve(in.dir)
	if err := os.MkdirAll(in.dir, 0o700); err != nil {
		return nil, fmt.Errorf("begin ingest: %w", err)
	}
	return in, nil
}

// ID that the snapshot will have.
func (in *Ingest) ID() ID { return in.id }

// Dir is the private folder of this ingest; what is left in it goes away.
func (in *Ingest) Dir() string { return in.dir }

// Pages is the writer of this snapshot's packs. Pages of recent snapshots that
// stand on the same images are not stored again.
func (in *Ingest) Pages(ctx context.Context, images ...ImageRef) *packer.Writer {
	if in.writer != nil {
		return in.writer
	}
	k, err := in.Key()
	if err != nil { // then every call of the writer gives it
		failed, cancel := context.WithCancelCause(ctx)
		cancel(err)
		in.writer = packer.NewWriter(failed, in, packer.WriterOptions{})
		return in.writer
	}
	in.family = in.openFamily(ctx, images, keyName(k))
	in.writer = packer.NewWriter(ctx, in, packer.WriterOptions{Family: in.family, Key: k})
	return in.writer
}

// closeFamily closes the packs whose pages could be reused.
func (in *Ingest) closeFamily() {
	for _, k := range in.family {
		_ = k.File.Close()
	}
	in.family = nil
}

// Put stores a small blob. The VMM's documents are encrypted where packs are.
func (in *Ingest) Put(ctx context.Context, mediaType string, data []byte) (Descriptor, error) {
	data, err := in.seal(mediaType, data)
	if err == nil {
		err = blobDocument.Check(data)
	}
	if err != nil {
		return Descriptor{}, err
	}
	f, err := in.create()
	if err != nil {
		return Descriptor{}, err
	}
	if _, err := f.Write(data); err != nil {
		return Descriptor{}, errors.Join(fmt.Errorf("write blob: %w", err), f.discard())
	}
	d := Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, f.keep(ctx, d)
}

// PutImage stores the page map of an image whose writer was flushed.
func (in *Ingest) PutImage(ctx context.Context, iw *packer.ImageWriter) (Descriptor, error) {
	m, err := iw.Finish()
	if err != nil {
		return Descriptor{}, err
	}
	d, err := in.PutMap(ctx, m)
	if err != nil {
		return Descriptor{}, fmt.Errorf("write page map: %w", err)
	}
	return d, nil
}

// PutMap stores a page map and names its packs, those of the parent included.
func (in *Ingest) PutMap(ctx context.Context, m *pack.Map) (Descriptor, error) {
	if err := in.lease.Hold(ctx, m.Packs...); err != nil {
		return Descriptor{}, err
	}
	for _, d := range m.Packs {
		fi, err := os.Stat(in.st.BlobPath(d))
		if err != nil {
			return Descriptor{}, failure.New(failure.Damaged, "page map needs pack %s: %w", d, err)
		}
		in.name(Descriptor{MediaType: MediaTypePack, Digest: d, Size: fi.Size()})
	}
	k, err := in.Key()
	if err != nil {
		return Descriptor{}, err
	}
	b, err := m.EncodeFor(k)
	if err != nil {
		return Descriptor{}, err
	}
	return in.Put(ctx, MediaTypePageMap, b)
}

func (in *Ingest) name(d Descriptor) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.ContainsFunc(in.layers, func(x Descriptor) bool { return x.Digest == d.Digest }) {
		in.layers = append(in.layers, d)
	}
}

// Reserve sets aside what this ingest's packs may need: n bytes of the file system
// and of the store's cap. What is left goes with the ingest.
func (in *Ingest) Reserve(n int64) error { return in.reserve.Take(n) }

// CreatePack makes Ingest a packer.Sink.
func (in *Ingest) CreatePack(context.Context) (packer.PackFile, error) {
	if err := in.reserve.Use(); err != nil {
		return nil, fmt.Errorf("use reserved space: %w", err)
	}
	return in.create()
}

// blobFile is a blob being written.
type blobFile struct {
	*os.File
	in        *Ingest
	writeback *durable.Writeback
}

// Write appends to the blob; see packer.PackFile.
func (f *blobFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.writeback.Wrote(int64(n))
	return n, err
}

func (in *Ingest) create() (*blobFile, error) {
	in.mu.Lock()
	in.files++
	name := fmt.Sprintf("blob-%d", in.files)
	in.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(in.dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o400)
	if err != nil {
		return nil, fmt.Errorf("begin blob: %w", err)
	}
	return &blobFile{f, in, durable.NewWriteback(f)}, nil
}

// Commit keeps a pack; see packer.PackFile.
func (f *blobFile) Commit(ctx context.Context, d digest.Digest, size int64) error {
	return f.keep(ctx, Descriptor{MediaType: MediaTypePack, Digest: d, Size: size})
}

// Abort drops a pack; see packer.PackFile.
func (f *blobFile) Abort() error { return f.discard() }

func (f *blobFile) discard() error {
	f.writeback.Wait()
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// keep makes the blob durable and gives it its name, under which it may exist
// already: then the one that is there serves, if it is sound, and ours goes.
func (f *blobFile) keep(ctx context.Context, d Descriptor) error {
	f.writeback.Wait()
	if err := errors.Join(f.has(d.Size), f.in.reserve.Spend(d.Size), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write blob %s: %w", d.Digest, err), os.Remove(f.Name()))
	}
	durable.Step("store.ingest.blob-written")
	if err := f.in.lease.Hold(ctx, d.Digest); err != nil {
		return err
	}
	err := durable.Publish(f.Name(), f.in.st.BlobPath(d.Digest))
	if errors.Is(err, os.ErrExist) {
		err = f.yield(d.Digest)
	}
	if err != nil {
		return fmt.Errorf("keep blob %s: %w", d.Digest, err)
	}
	durable.Step("store.ingest.blob-kept")
	if d.MediaType != MediaTypeConfig {
		f.in.name(d)
	}
	return nil
}

// yield lets the blob that is there already serve; one that is damaged is
// replaced, and so repaired for every snapshot that names it.
func (f *blobFile) yield(d digest.Digest) error {
	sound, err := f.in.st.sound(d)
	if err != nil {
		return err
	}
	if sound {
		return os.Remove(f.Name())
	}
	return f.in.st.replace(f.Name(), d)
}

// has refuses a file of another size: its digest cannot be right either.
func (f *blobFile) has(size int64) error {
	fi, err := f.Stat()
	if err == nil && fi.Size() != size {
		err = failure.New(failure.Damaged, "%d bytes were written, %d announced", fi.Size(), size)
	}
	return err
}

// Commit publishes: the snapshot exists from the rename on. One without an origin
// in its meta was captured here.
func (in *Ingest) Commit(ctx context.Context, sp Spec, meta Meta) (*Snapshot, error) {
	in.closeFamily()
	sp.ID = in.id
	if err := meta.Check(); err != nil {
		return nil, err
	}
	if err := meta.Come(sp); err != nil {
		return nil, err
	}
	if err := in.keyOf(&sp); err != nil {
		return nil, err
	}
	in.mu.Lock()
	err := errors.Join(sp.Check(), sp.StandsOn(in.layers))
	in.mu.Unlock()
	if err != nil {
		return nil, err
	}
	config, err := in.putSpec(ctx, &sp)
	if err != nil {
		return nil, err
	}
	staged, err := in.stage(config, meta)
	if err != nil {
		return nil, err
	}
	if err := in.lease.Hold(ctx, sp.ImageDigests()...); err != nil {
		return nil, err
	}
	return in.publishStaged(ctx, staged, config, &sp, meta)
}

// publishStaged makes a staged snapshot exist.
func (in *Ingest) publishStaged(ctx context.Context, staged string, config Descriptor, sp *Spec, meta Meta) (*Snapshot, error) {
	err := in.st.Names().Lock(ctx, func() error {
		if err := in.st.Names().Take(in.id, meta.Name); err != nil {
			return err
		}
		err := in.st.at.Shared(ctx, func() error { return in.publish(staged, config, sp) })
		if err != nil {
			in.st.Names().Drop(meta.Name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	durable.Step("store.commit.published")
	ctx = context.WithoutCancel(ctx) // it is there: whoever is interrupted now is to know it
	// Behind the locks: others need not wait for the disk.
	if err := durable.SyncParents(staged, in.st.Path("snapshots", string(in.id))); err != nil {
		return nil, fmt.Errorf("publish snapshot %s: %w", in.id, err)
	}
	sn, err := in.st.Get(ctx, in.id)
	if err == nil {
		in.st.Index().Published(sn)
	}
	return sn, err
}

// stage writes the snapshot's folder, durable but not published.
func (in *Ingest) stage(config Descriptor, meta Meta) (string, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType, Config: config, Layers: in.layers,
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", err
	}
	return in.stageBytes(manifest, meta)
}

// publish runs under names.lock and the shared store lock; the caller fsyncs.
func (in *Ingest) publish(staged string, config Descriptor, sp *Spec) error {
	if err := in.st.allThere(append([]Descriptor{config}, in.layers...)); err != nil {
		return err
	}
	for _, d := range sp.ImageDigests() {
		if _, err := os.Stat(in.st.ImageBlobPath(d)); err != nil {
			return failure.New(failure.Damaged, "commit: image blob: %w", err)
		}
	}
	durable.Step("store.commit.checked")
	if err := durable.Rename(staged, in.st.Path("snapshots", string(in.id))); err != nil {
		if errors.Is(err, os.ErrExist) {
			return failure.New(failure.Conflict, "snapshot %s exists already", in.id)
		}
		return fmt.Errorf("publish snapshot %s: %w", in.id, err)
	}
	return nil
}

// Abort drops what is not published. Blobs that were kept are gc's.
func (in *Ingest) Abort() error {
	if in.writer != nil {
		in.writer.Abort()
	}
	in.closeFamily()
	return os.RemoveAll(in.dir)
}
