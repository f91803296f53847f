package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// recordName of a VM's record in its folder.
const recordName = "record.json"

// Garbage is the Source of VMs: the record of each and, for suspended ones, the
// snapshot they need; their folders, and what was staged for them.
func Garbage(st *store.Store) garbage.Source {
	c := &collected{st}
	return garbage.Source{
		Folder: "vms",
		Files: func() ([]string, error) {
			entries, err := os.ReadDir(st.Path("vms"))
			if err != nil {
				return nil, fmt.Errorf("list VMs: %w", err)
			}
			var files []string
			for _, e := range entries {
				if spelling.ID(e.Name()) {
					dir := st.Path("vms", e.Name())
					files = append(files, filepath.Join(dir, sleep.File), filepath.Join(dir, recordName))
				}
			}
			return files, nil
		},
		Read: readRoot,
		Find: func(kind garbage.Kind, id string) string {
			return map[garbage.Kind]string{garbage.VM: st.Path("vms", id, recordName), garbage.Asleep: st.Path("vms", id, sleep.File)}[kind]
		},
		Doubts:  c.doubts,
		Objects: c.objects,
	}
}

func readRoot(path string) (garbage.Root, error) {
	id := filepath.Base(filepath.Dir(path))
	if filepath.Base(path) == recordName {
		b, err := recordFile.Read(path)
		if err != nil {
			return garbage.Root{}, err
		}
		rec, err := decodeRecord(b, id)
		if err == nil {
			err = whole(b, &Record{})
		}
		if err != nil {
			return garbage.Root{}, err
		}
		return garbage.Root{Kind: garbage.VM, ID: id, Name: rec.Name, VM: id, Digests: rec.blobs(), Woken: rec.Woken, Awake: rec.awake()}, nil
	}
	b, err := sleep.Document.Read(path)
	if err != nil {
		return garbage.Root{}, err
	}
	s, err := decodeSleep(b, id)
	if err == nil {
		err = whole(b, &Sleep{})
	}
	if err != nil {
		return garbage.Root{}, err
	}
	return garbage.Root{
		Kind: garbage.Asleep, ID: id, Name: s.Record.Name, VM: id,
		Digests: s.Record.blobs(), Snapshots: []string{string(s.Snapshot)}, Woken: s.Record.Woken,
	}, nil
}

// awake: while a VM is suspended its record.json stays as it was when it ran. If
// it was written since, or its process lives, the VM is not suspended.
func (r *Record) awake() bool {
	if !r.State.Up() {
		return true
	}
	return r.Process != nil && alive(r.Process)
}

// blobs are the image blobs that a record names anywhere, each once.
func (r *Record) blobs() []digest.Digest {
	out := slices.Clone(r.Images)
	for _, ref := range []*store.ImageRef{r.Kernel, r.Firmware, r.Initramfs} {
		if ref != nil {
			out = append(out, ref.Digest)
		}
	}
	for _, d := range r.Disks {
		if d.Image != "" {
			out = append(out, d.Image)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// whole refuses documents with fields unknown to this program.
func whole(b []byte, v any) error {
	if err := durable.DecodeAll(b, v); err != nil {
		return failure.Hint(failure.New(failure.Damaged, "%w: a newer cocoon wrote it, or it is damaged", err), "use the newer program")
	}
	return nil
}

// changeable refuses to change a VM whose documents have fields, from a newer
// program, that this one's next write would drop.
func (m *Manager) changeable(id string) error {
	for path, v := range map[string]any{m.recordPath(id): &Record{}, m.SleepPath(id): &Sleep{}} {
		b, err := sleep.Document.Read(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = whole(b, v)
		}
		if err != nil {
			return failure.Hint(failure.New(failure.Incompatible, "VM %s: %s", id, err), failure.HintOf(err))
		}
	}
	return nil
}
