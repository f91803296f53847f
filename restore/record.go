package restore

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
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
	rec.Labels = store.FreeLabels(src.Labels)
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
