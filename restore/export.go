package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store/contents"
)

// ExportCH writes a folder that `cloud-hypervisor --restore
// source_url=file://DIR` accepts: config.json with every path inside the folder,
// state.json, memory-ranges, the disks and the boot files. The folder must not
// exist; it gets its name only when it is whole. onBytes may be nil.
func (e *Engine) ExportCH(ctx context.Context, ref, dir string, onBytes func(done, total int64)) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		return cannotMake(dir, os.ErrExist)
	}
	if err := e.complete(); err != nil {
		return err
	}
	id, err := e.Store.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	lease, err := e.Store.LeaseToRead(ctx, "snapshot export "+string(id))
	if err != nil {
		return err
	}
	defer lease.Release()
	s, err := e.hold(ctx, lease, id)
	if err != nil {
		return err
	}
	if err := s.roomFor(filepath.Dir(dir)); err != nil {
		return err
	}
	d, err := durable.DraftDir(dir)
	if err != nil {
		return cannotMake(dir, err)
	}
	defer d.Drop()
	if err := e.exportInto(ctx, s, onBytes, d.Path(), dir); err != nil {
		return fmt.Errorf("export snapshot %s: %w", id, err)
	}
	return cannotMake(dir, d.Publish())
}

// cannotMake says why an export cannot be made at the requested place.
func cannotMake(dir string, err error) error {
	if errors.Is(err, os.ErrExist) {
		return failure.New(failure.Conflict, "%s exists already", dir)
	}
	if err != nil {
		return fmt.Errorf("export to %s: %w", dir, err)
	}
	return nil
}

// roomFor refuses an export that does not fit the file system of dir. Disks that
// are images may be shared with their blobs.
func (s *subject) roomFor(dir string) error {
	need := s.ram.stored + stored(s.sizes)
	free, _, err := hostfacts.FreeBytes(dir)
	if err == nil && free < need {
		err = failure.New(failure.NoSpace, "the export of snapshot %s takes %d bytes, %d are free at %s", s.snapshot.ID, need, free, dir)
	}
	return err
}

func (e *Engine) exportInto(ctx context.Context, s *subject, onBytes told, tmp, final string) error {
	if err := s.source.Judge(s.config, s.state); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.snapshot.ID, err)
	}
	c := s.config.Clone()
	w := chsnap.Rewrite{Disks: map[string]chsnap.DiskFile{}, Taps: map[string]string{}, SerialFile: filepath.Join(final, "serial.log"), Vsock: filepath.Join(final, "vsock.sock")}
	for _, n := range c.Nets() {
		w.Taps[n.ID] = n.Tap
	}
	for i, d := range s.source.Disks() {
		name := fmt.Sprintf("disk-%d.raw", d.Index)
		w.Disks[d.DeviceID] = chsnap.DiskFile{Path: filepath.Join(final, name), Readonly: d.Readonly}
		if err := e.exportDisk(ctx, s, i, filepath.Join(tmp, name)); err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	paths := map[string]*string{"kernel": &w.Kernel, "firmware": &w.Firmware, "initramfs": &w.Initramfs}
	for _, f := range s.source.BootFiles() {
		*paths[f.Role] = filepath.Join(final, f.Role)
		if _, err := clone.File(ctx, filepath.Join(tmp, f.Role), e.Images.Path(f.Digest), clone.Options{}); err != nil {
			return fmt.Errorf("%s: %w", f.Role, err)
		}
	}
	if err := c.Rewrite(w); err != nil {
		return err
	}
	if err := writeFolder(tmp, c, s.state); err != nil {
		return err
	}
	return e.writeMemory(ctx, s, onBytes, filepath.Join(tmp, "memory-ranges"))
}

func (e *Engine) exportDisk(ctx context.Context, s *subject, i int, path string) error {
	if d := s.snapshot.Spec.Disks[i]; d.Image != "" {
		_, err := clone.File(ctx, path, e.Images.Path(d.Image), clone.Options{})
		return err
	}
	im, err := contents.Of(e.Store, s.snapshot).Open(ctx, s.maps.Disks[i])
	if err != nil {
		return err
	}
	defer im.Close()
	return writeImage(ctx, im, path, nil)
}
