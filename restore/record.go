package restore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack"
)

// sourceRecord decodes the VM record that the snapshot carries.
func sourceRecord(sn *store.Snapshot) (*vm.Record, error) {
	rec, err := vm.DecodeForeign(sn.Spec.Record)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", sn.ID, err)
	}
	if len(rec.Disks) != len(sn.Spec.Disks) {
		return nil, failure.New(failure.Damaged, "snapshot %s: %d disks in the VM record, %d saved", sn.ID, len(rec.Disks), len(sn.Spec.Disks))
	}
	return rec, nil
}

// fillRecord makes rec a complete record: what the guest saw at capture, so
// that stop and start are a cold boot of the same machine.
func fillRecord(rec *vm.Record, p *Plan) {
	src := p.source
	rec.Labels = src.Labels
	rec.CPUs, rec.MemoryBytes = src.CPUs, src.MemoryBytes
	rec.Kernel, rec.Firmware, rec.Initramfs, rec.Cmdline = src.Kernel, src.Firmware, src.Initramfs, src.Cmdline
	rec.ExtraArgs = src.ExtraArgs
	wantNetworks(rec, p)
	rec.Image, rec.Images = src.Image, src.Images
	rec.Snapshot = string(p.SnapshotID)
	rec.Disks = nil
	for _, d := range p.snapshot.Spec.Disks {
		disk := vm.Disk{Index: d.Index, DeviceID: d.DeviceID, Serial: d.Serial, Image: d.Image, Readonly: d.Readonly, Bytes: d.Bytes}
		if d.Image == "" {
			disk.File = fmt.Sprintf("disk-%d.raw", d.Index) // never a name that the snapshot chose
		}
		rec.Disks = append(rec.Disks, disk)
	}
}

func hostFlags() []string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if key, value, _ := strings.Cut(sc.Text(), ":"); strings.TrimSpace(key) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}

// WriteMemory expands a snapshot's RAM into one new sparse file: its ranges
// one after the other, in the order of the table in state.json. Every page is
// verified. The file is not fsynced.
func (e *Engine) WriteMemory(ctx context.Context, lease *store.Lease, sn *store.Snapshot, path string) error {
	var total int64
	for _, m := range sn.Spec.Memory {
		total += int64(m.Bytes)
	}
	return newSparse(path, total, func(f *os.File) error { return e.fillMemory(ctx, lease, sn, f, total) })
}

func (e *Engine) fillMemory(ctx context.Context, lease *store.Lease, sn *store.Snapshot, f *os.File, total int64) error {
	var offset int64
	told := &meter{total: total, onBytes: e.OnBytes}
	for i, m := range sn.Spec.Memory {
		im, err := e.Store.OpenMemory(ctx, lease, sn, i)
		if err != nil {
			return err
		}
		err = im.WriteTo(ctx, pack.At(f, offset), runtime.NumCPU(), told.add)
		im.Close()
		if err != nil {
			return fmt.Errorf("RAM at %#x of snapshot %s: %w", m.GPA, sn.ID, err)
		}
		offset += int64(m.Bytes)
	}
	return nil
}

// meter sums up progress that several goroutines tell of.
type meter struct {
	done    atomic.Int64
	total   int64
	onBytes func(done, total int64) // may be nil
}

func (m *meter) add(n int64) {
	if done := m.done.Add(n); m.onBytes != nil {
		m.onBytes(done, m.total)
	}
}
