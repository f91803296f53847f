package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/prints"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// ImportRequest says which Cloud Hypervisor snapshot folder becomes a snapshot.
type ImportRequest struct {
	Dir         string
	Name        string
	Description string
	Labels      map[string]string
	Parent      string // snapshot reference, auto, or none, which is "" too
	// TrustPaths also reads disks and boot files outside the folder, at the paths
	// in its config.json. Without it a path outside is refused: the folder may
	// come from anybody, and could pull any file of this host into a guest.
	TrustPaths bool
	// Boot are files of this host for the VM to boot from, instead of those in
	// config.json. If neither is available, the snapshot is still imported: its
	// VM can continue, but not boot.
	Boot vm.BootPaths
	// OnNote receives what the operator should know, with the remedy. May be nil.
	OnNote  func(text, hint string)
	OnBytes func(done, total int64)
}

// Importer imports untrusted snapshot folders.
type Importer struct {
	Store  *store.Store
	Images *image.Store
	Prints prints.Key // nil: every page is hashed
}

// Import publishes a snapshot from a folder with config.json, state.json and
// memory-ranges. Disks and boot files are those named in config.json: the file of
// that base name in the folder, or (TrustPaths) the one at the path itself. The
// folder is not changed; any other folder is failure.Usage.
func (m *Importer) Import(ctx context.Context, req ImportRequest) (*store.Snapshot, error) {
	folder, err := openFolder(req)
	if err != nil {
		return nil, err
	}
	defer folder.close()
	dir, err := chsnap.ReadFolder(folder.root)
	if err != nil {
		return nil, err
	}
	if err := dir.Config.Check(); err != nil {
		return nil, fmt.Errorf("%s cannot be imported: %w", req.Dir, err)
	}
	if err := chsnap.Normalise(dir.Config, dir.State); err != nil {
		return nil, err
	}
	lease, err := m.Store.Lease(ctx, "snapshot import "+filepath.Base(req.Dir))
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	started := time.Now()
	meta := store.Meta{Name: req.Name, Description: req.Description, Labels: req.Labels, Origin: &store.Origin{Imported: req.Dir}}
	if err := checkMeta(ctx, m.Store, meta, false); errors.Is(err, failure.Conflict) {
		return nil, failure.Hint(err, "choose another "+hint.Name.Of())
	} else if err != nil {
		return nil, err
	}
	parent, err := m.parent(ctx, lease, req, folder)
	if err != nil {
		return nil, err
	}
	rec, disks, err := m.describe(ctx, lease, folder, dir)
	if err != nil {
		return nil, err
	}
	in, err := m.Store.Ingest(ctx, lease)
	if err != nil {
		return nil, err
	}
	src := &source{store: m.Store, ingest: in, prints: prints.Begin(m.Store, in, m.Prints), dir: dir, parent: parent, onBytes: req.OnBytes}
	src.memory = &fileMemory{dir: dir, open: func() (*os.File, error) { return dir.OpenMemory(folder.root) }}
	defer src.close()
	sn, err := publishFolder(ctx, &publication{source: src, meta: meta, started: started}, disks, rec)
	if err != nil {
		return nil, failure.Undone(err, in.Abort(), "nothing is left of the snapshot")
	}
	return sn, nil
}

// parent finds and holds the snapshot whose pages may be reused. It first refuses
// what encryption forbids.
func (m *Importer) parent(ctx context.Context, lease *store.Lease, req ImportRequest, folder *folder) (*store.Snapshot, error) {
	if _, err := m.Store.SealingKey(); err != nil {
		return nil, err
	}
	found, err := findParent(ctx, m.Store, cmp.Or(req.Parent, noParent), kin{name: folder.vmName()}, func(string) {})
	if err != nil {
		return nil, err
	}
	return holdParent(ctx, m.Store, lease, found, asked(req.Parent))
}

func publishFolder(ctx context.Context, p *publication, disks []foreignDisk, rec *vm.Record) (*store.Snapshot, error) {
	record, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	for i, d := range disks {
		if d.file != nil {
			d.path = filepath.Join(p.ingest.Dir(), fmt.Sprintf("disk-%d.staged", i))
			defer os.Remove(d.path)
			if err := quietCopy(ctx, d.path, d.file); err != nil {
				return nil, err
			}
		}
		p.disks = append(p.disks, d.sourceDisk)
	}
	return p.publish(ctx, store.Spec{
		Networks: known(rec), VM: store.VMRef{Name: rec.Name}, CPUs: rec.CPUs, Images: imageRefs(rec), Record: record,
		Hypervisor: store.Hypervisor{Name: "cloud-hypervisor"},
		Capture:    store.Capture{Mode: "import"},
	})
}

// quietCopy copies a disk that nothing writes to.
func quietCopy(ctx context.Context, dst string, disk *os.File) error {
	if err := filelock.UnusedFile(disk); err != nil {
		return err
	}
	_, err := clone.Opened(ctx, dst, disk, clone.Options{})
	return err
}

// foreignDisk is a disk of the folder; file is nil for one that became an image.
type foreignDisk struct {
	sourceDisk
	file *os.File
}

// describe makes the VM record for a rebuilt VM.
func (m *Importer) describe(ctx context.Context, lease *store.Lease, folder *folder, dir *chsnap.Dir) (*vm.Record, []foreignDisk, error) {
	cfg := dir.Config
	rec := &vm.Record{Version: 1, Name: folder.vmName(), CPUs: cfg.CPUs(), MemoryBytes: int64(cfg.MemoryBytes())}
	rec.Cmdline = cfg.Payload().Cmdline
	if err := m.bootFiles(ctx, lease, folder, cfg, rec); err != nil {
		return nil, nil, err
	}
	for i, n := range cfg.Nets() {
		tap := network.Attachment{Index: i, Network: network.Tap, Tap: n.Tap, MAC: n.MAC, MTU: n.MTU, QueuePairs: n.Queues / 2}
		rec.Networks = append(rec.Networks, vm.Network{ID: n.ID, Attachment: tap})
	}
	var disks []foreignDisk
	for i, d := range cfg.Disks() {
		disk, err := m.disk(ctx, lease, folder, i, d, rec)
		if err != nil {
			return nil, nil, err
		}
		disks = append(disks, disk)
	}
	if err := rec.Judge(cfg, dir.State); err != nil {
		return nil, nil, fmt.Errorf("%s cannot be imported: %w", folder.root.Name(), err)
	}
	return rec, disks, nil
}

func (m *Importer) disk(ctx context.Context, lease *store.Lease, folder *folder, i int, d chsnap.DiskConfig, rec *vm.Record) (foreignDisk, error) {
	var none foreignDisk
	if d.ImageType != "" && d.ImageType != "Raw" {
		return none, failure.Hint(failure.New(failure.Incompatible, "disk %s of the folder is %s; only raw disks are imported", d.ID, d.ImageType), "convert it to raw before the snapshot is made")
	}
	file, err := folder.find(d.Path)
	if err != nil {
		return none, fmt.Errorf("disk %s named by config.json: %w", d.ID, err)
	}
	fi, err := file.Stat()
	if err == nil {
		err = chsnap.RefuseFormat(file, fi.Size())
	}
	if err != nil {
		return none, fmt.Errorf("disk %s of the folder: %w", d.ID, err)
	}
	spec := store.Disk{Index: i, DeviceID: spelling.Claimed(d.ID), Serial: spelling.Claimed(d.Serial), Format: spelling.Claimed("raw"), Bytes: fi.Size(), Readonly: d.Readonly}
	disk := vm.Disk{Index: i, DeviceID: d.ID, Serial: d.Serial, Bytes: fi.Size(), Readonly: d.Readonly}
	if d.Readonly {
		ref, err := m.Images.BlobOf(ctx, lease, file, "disk")
		if err != nil {
			return none, err
		}
		spec.Image, disk.Image, file = ref.Digest, ref.Digest, nil
		rec.Images = append(rec.Images, ref.Digest)
	} else {
		disk.File = fmt.Sprintf("disk-%d.raw", i)
	}
	rec.Disks = append(rec.Disks, disk)
	return foreignDisk{sourceDisk{spec: spec}, file}, nil
}
