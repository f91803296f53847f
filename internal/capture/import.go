package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/clone"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/internal/image"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// ImportRequest says which Cloud Hypervisor snapshot folder becomes a snapshot.
type ImportRequest struct {
	Dir         string
	Name        string
	Description string
	Labels      map[string]string
	Parent      string // snapshot reference, "" for none
	// TrustPaths also reads disks and boot files outside the folder, where its
	// config.json says. Without it a path outside is refused: the folder may
	// come from anybody, and would pull any file of this host into a guest.
	TrustPaths bool
	OnBytes    func(done, total int64)
}

// Importer reads snapshot folders that somebody else made.
type Importer struct {
	Store  *store.Store
	Images *image.Store
}

// Import publishes a snapshot from a folder with config.json, state.json and
// memory-ranges. Disks and boot files are the ones that config.json names: the
// file of that base name in the folder, or (TrustPaths) the one at the path
// itself. The folder is not changed.
func (m *Importer) Import(ctx context.Context, req ImportRequest) (*store.Snapshot, error) {
	dir, err := chsnap.ReadDir(req.Dir)
	if err != nil {
		return nil, err
	}
	if problems := dir.Config.Unsupported(); len(problems) > 0 {
		return nil, failure.Hint(failure.New(failure.Incompatible, "%s cannot be imported: %s: %s", req.Dir, problems[0].Device, problems[0].Reason), problems[0].Remedy)
	}
	lease, err := m.Store.Lease(ctx, "snapshot import "+filepath.Base(req.Dir))
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	c := &session{Saver: &Saver{Store: m.Store}, lease: lease, req: Request{
		Name: req.Name, Description: req.Description,
		Labels: req.Labels, Parent: req.Parent,
	}}
	if err := c.checkName(ctx); err != nil {
		return nil, err
	}
	if _, err := m.Store.SealingKey(); err != nil {
		return nil, err
	}
	if req.Parent != "" {
		if c.parent, err = c.findParent(ctx); err != nil {
			return nil, err
		}
	}
	rec, disks, err := m.describe(ctx, lease, finder{req.Dir, req.TrustPaths}, dir)
	if err != nil {
		return nil, err
	}
	if c.ingest, err = m.Store.Ingest(ctx, lease); err != nil {
		return nil, err
	}
	sn, err := m.publish(ctx, c, &source{
		store: m.Store, lease: lease, dir: dir, memory: &fileMemory{dir: dir},
		disks: disks, parent: c.parent, onBytes: req.OnBytes,
	}, rec)
	if err != nil {
		return nil, errors.Join(err, c.ingest.Abort())
	}
	return sn, nil
}

func (m *Importer) publish(ctx context.Context, c *session, src *source, rec *vm.Record) (*store.Snapshot, error) {
	record, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	for i, d := range src.disks {
		if d.path == "" {
			continue
		}
		if err := filelock.Unused(d.path); err != nil {
			return nil, err
		}
		quiet := filepath.Join(c.ingest.Dir(), fmt.Sprintf("disk-%d.staged", i))
		if _, err := clone.File(ctx, quiet, d.path, clone.Options{}); err != nil {
			return nil, fmt.Errorf("copy disk %s: %w", d.path, err)
		}
		defer os.Remove(quiet)
		src.disks[i].path = quiet
	}
	return c.publish(ctx, src, store.Spec{
		Networks: known(rec), VM: store.VMRef{Name: rec.Name}, CPUs: rec.CPUs, Images: imageRefs(rec), Record: record,
		Hypervisor: store.Hypervisor{Name: "cloud-hypervisor"},
		Capture:    store.Capture{Mode: "import"},
	})
}

// describe makes the VM record that a rebuilt VM will have.
func (m *Importer) describe(ctx context.Context, lease *store.Lease, folder finder, dir *chsnap.Dir) (*vm.Record, []sourceDisk, error) {
	cfg := dir.Config
	rec := &vm.Record{Version: 1, Name: filepath.Base(filepath.Clean(folder.dir)), CPUs: cfg.CPUs(), MemoryBytes: int64(cfg.MemoryBytes())}
	p := cfg.Payload()
	rec.Cmdline = p.Cmdline
	for _, f := range []struct {
		path, role string
		ref        **store.ImageRef
	}{{p.Kernel, "kernel", &rec.Kernel}, {p.Firmware, "firmware", &rec.Firmware}, {p.Initramfs, "initramfs", &rec.Initramfs}} {
		if f.path == "" {
			continue
		}
		path, err := folder.find(f.path)
		if err != nil {
			return nil, nil, fmt.Errorf("%s named by config.json: %w", f.role, err)
		}
		ref, err := m.Images.Blob(ctx, lease, path, f.role)
		if err != nil {
			return nil, nil, err
		}
		*f.ref = &ref
		rec.Images = append(rec.Images, ref.Digest)
	}
	for i, n := range cfg.Nets() {
		tap := network.Attachment{Index: i, Network: network.Tap, Tap: n.Tap, MAC: n.MAC, MTU: n.MTU, QueuePairs: n.Queues / 2}
		rec.Networks = append(rec.Networks, vm.Network{ID: n.ID, Attachment: tap})
	}
	var disks []sourceDisk
	for i, d := range cfg.Disks() {
		disk, err := m.disk(ctx, lease, folder, i, d, rec)
		if err != nil {
			return nil, nil, err
		}
		disks = append(disks, disk)
	}
	return rec, disks, rec.CheckForeign()
}

func (m *Importer) disk(ctx context.Context, lease *store.Lease, folder finder, i int, d chsnap.DiskConfig, rec *vm.Record) (sourceDisk, error) {
	if d.ImageType != "" && d.ImageType != "Raw" {
		return sourceDisk{}, failure.Hint(failure.New(failure.Incompatible, "disk %s of the folder is %s; only raw disks are imported", d.ID, d.ImageType), "convert it to raw before the snapshot is made")
	}
	path, err := folder.find(d.Path)
	if err != nil {
		return sourceDisk{}, fmt.Errorf("disk %s named by config.json: %w", d.ID, err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return sourceDisk{}, err
	}
	spec := store.Disk{Index: i, DeviceID: d.ID, Serial: d.Serial, Format: "raw", Bytes: fi.Size(), Readonly: d.Readonly}
	disk := vm.Disk{Index: i, DeviceID: d.ID, Serial: d.Serial, Bytes: fi.Size(), Readonly: d.Readonly}
	if d.Readonly {
		ref, err := m.Images.Blob(ctx, lease, path, "disk")
		if err != nil {
			return sourceDisk{}, err
		}
		spec.Image, disk.Image, path = ref.Digest, ref.Digest, ""
		rec.Images = append(rec.Images, ref.Digest)
	} else {
		disk.File = fmt.Sprintf("disk-%d.raw", i)
	}
	rec.Disks = append(rec.Disks, disk)
	return sourceDisk{path: path, spec: spec}, nil
}

// finder locates the files that config.json names.
type finder struct {
	dir   string
	trust bool // paths outside dir are believed
}

// find prefers the file of the same base name in the folder. Symbolic links
// and special files are refused wherever they are.
func (f finder) find(named string) (string, error) {
	paths := []string{filepath.Join(f.dir, filepath.Base(named))}
	if f.trust {
		paths = append(paths, named)
	}
	for _, path := range paths {
		fi, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return "", err
		}
		if !fi.Mode().IsRegular() {
			return "", failure.New(failure.Incompatible, "%s is not a regular file", path)
		}
		return path, nil
	}
	if _, err := os.Lstat(named); err == nil && !f.trust {
		return "", failure.Hint(failure.New(failure.Incompatible, "%s lies outside the snapshot folder", named),
			"copy it into the folder, or say --trust-paths if you know who made the folder")
	}
	return "", failure.New(failure.NotFound, "%s: no such file", paths[0])
}
