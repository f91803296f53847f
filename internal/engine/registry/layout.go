package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// sink takes the files of a layout one after the other.
type sink func(name string, size int64, r io.Reader) error

// ExportDir writes an OCI image layout as a folder that must not exist; it
// appears under its name only when it is whole.
func (m *Mover) ExportDir(ctx context.Context, ref, dir string, withImages bool) (*Pushed, error) {
	d, err := durable.DraftDir(dir)
	if err != nil {
		return nil, cannotMake(dir, err)
	}
	defer d.Drop()
	out, err := m.export(ctx, ref, withImages, func(name string, size int64, r io.Reader) error {
		return writeFile(filepath.Join(d.Path(), filepath.FromSlash(name)), size, r)
	})
	if err != nil {
		return nil, err
	}
	return out, cannotMake(dir, d.Publish())
}

// cannotMake says why an export cannot be made where it was asked for.
func cannotMake(path string, err error) error {
	if errors.Is(err, os.ErrExist) {
		return failure.New(failure.Conflict, "%s exists already", path)
	}
	if err != nil {
		return fmt.Errorf("export to %s: %w", path, err)
	}
	return nil
}

func writeFile(path string, size int64, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = failure.New(failure.Damaged, "%s has %d bytes, want %d", filepath.Base(path), n, size)
	}
	return errors.Join(err, f.Close())
}

// ExportTarFile writes the layout as one tar file that must not exist.
func (m *Mover) ExportTarFile(ctx context.Context, ref, file string, withImages bool) (*Pushed, error) {
	d, err := durable.DraftFile(file) // 0600: RAM holds secrets
	if err != nil {
		return nil, cannotMake(file, err)
	}
	defer d.Drop()
	out, err := m.ExportTar(ctx, ref, d.File(), withImages)
	if err != nil {
		return nil, err
	}
	return out, cannotMake(file, d.Publish())
}

// ExportTar writes the layout as a tar stream.
func (m *Mover) ExportTar(ctx context.Context, ref string, w io.Writer, withImages bool) (*Pushed, error) {
	tw := tar.NewWriter(w)
	out, err := m.export(ctx, ref, withImages, func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	})
	return out, errors.Join(err, tw.Close())
}

// export gives a sink the files of the layout, the two that describe it first.
func (m *Mover) export(ctx context.Context, ref string, withImages bool, to sink) (*Pushed, error) {
	lease, err := m.Store.LeaseToRead(ctx, "snapshot export "+ref)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	o, sn, err := m.outgoing(ctx, lease, ref, withImages)
	if err != nil {
		return nil, err
	}
	if err := o.describe(sn, to); err != nil {
		return nil, err
	}
	var done int64
	all := append([]ocispec.Descriptor{o.snapshot}, o.layers...)
	if o.bundle != nil {
		all = append(all, *o.bundle)
	}
	for _, d := range all {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := o.copyTo(ctx, to, d); err != nil {
			return nil, fmt.Errorf("export blob %s: %w", d.Digest, err)
		}
		if done += d.Size; m.OnBytes != nil {
			m.OnBytes(done, o.total())
		}
	}
	return &Pushed{Digest: string(o.snapshot.Digest), Bytes: o.total(), SentBytes: o.total()}, nil
}

func (o *outgoing) copyTo(ctx context.Context, to sink, d ocispec.Descriptor) error {
	r, err := o.open(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	return to(path.Join(ocispec.ImageBlobsDir, "sha256", d.Digest.Encoded()), d.Size, r)
}

// describe writes oci-layout and index.json.
func (o *outgoing) describe(sn *store.Snapshot, to sink) error {
	root := o.snapshot
	root.Annotations = map[string]string{ocispec.AnnotationRefName: tagOf(sn)}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{root},
	}
	if o.bundle != nil {
		index.Manifests = append(index.Manifests, *o.bundle)
	}
	for _, f := range []struct {
		name  string
		value any
	}{{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}, {ocispec.ImageIndexFile, index}} {
		b, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		if err := to(f.name, int64(len(b)), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	return nil
}

// tagOf names the snapshot in a layout: its name, else its id.
func tagOf(sn *store.Snapshot) string {
	if sn.Meta.Name != "" {
		return sn.Meta.Name
	}
	return string(sn.ID)
}
