package vm

import (
	"context"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/store"
)

// places holds the paths of one VM's files on this host.
type places struct {
	disk          func(Disk) string
	image         func(digest.Digest) string
	serial, vsock string
}

// Rewriting is how a saved configuration is changed for the VM of a record: every
// path in it becomes one of that VM's own.
func (m *Manager) Rewriting(ctx context.Context, rec *Record) chsnap.Rewrite {
	w := rec.rewriting(places{
		disk:   func(d Disk) string { return filepath.Join(m.Dir(rec.ID), d.File) },
		image:  m.images.Path,
		serial: m.SerialPath(rec.ID), vsock: m.VsockPath(rec),
	})
	if w.Confine = m.confines(rec) || asksForLandlock(rec); w.Confine {
		w.Writable, w.Readable = m.makeRooms(ctx, rec.ID), rec.tapFolders()
	}
	return w
}

// Judge checks whether a VM of this record can be rebuilt from a configuration
// and a state (nil if not known yet), as chsnap.Judge does. Nothing on this host
// is consulted.
func (r *Record) Judge(c *chsnap.Config, s *chsnap.State) error {
	return chsnap.Judge(c, s, r.rewriting(places{
		disk:   func(d Disk) string { return "/vm/" + d.File },
		image:  func(d digest.Digest) string { return "/image/" + string(d) },
		serial: "/run/serial", vsock: "/run/vsock",
	}))
}

func (r *Record) rewriting(at places) chsnap.Rewrite {
	w := chsnap.Rewrite{Disks: map[string]chsnap.DiskFile{}, Taps: map[string]string{}, SerialFile: at.serial, Vsock: at.vsock}
	for _, d := range r.Disks {
		if d.Image != "" { // read-only, whatever any document says
			w.Disks[d.DeviceID] = chsnap.DiskFile{Path: at.image(d.Image), Readonly: true}
			continue
		}
		w.Disks[d.DeviceID] = chsnap.DiskFile{Path: at.disk(d), Readonly: d.Readonly}
	}
	for _, n := range r.Networks {
		w.Taps[n.ID] = n.Tap
	}
	path := func(ref *store.ImageRef) string {
		if ref == nil {
			return ""
		}
		return at.image(ref.Digest)
	}
	w.Kernel, w.Firmware, w.Initramfs = path(r.Kernel), path(r.Firmware), path(r.Initramfs)
	return w
}
