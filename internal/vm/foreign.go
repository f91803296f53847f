package vm

import (
	"encoding/json"
	"net"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/spelling"
	"github.com/cocoonv2/cocoon/store"
)

const (
	maxWord        = 64
	maxCPUs        = 1024
	maxMemoryBytes = 1 << 46
	maxDevices     = 256
)

// DecodeForeign reads a record that a snapshot carries. Anybody may have made
// the snapshot, and the record's fields become arguments of the VMM at the next
// cold boot: failure.Damaged for one that this program would not have written.
func DecodeForeign(b []byte) (*Record, error) {
	var rec Record
	if len(b) > store.RecordLimit {
		return nil, failure.New(failure.Damaged, "VM record of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, failure.New(failure.Damaged, "VM record: %w", err)
	}
	return &rec, rec.CheckForeign()
}

// CheckForeign holds a record's fields to what this program writes itself.
// ExtraArgs are the caller's to judge: they may say anything.
func (r *Record) CheckForeign() error {
	if r.CPUs < 0 || r.CPUs > maxCPUs || r.MemoryBytes < 0 || r.MemoryBytes > maxMemoryBytes {
		return failure.New(failure.Damaged, "VM record: %d processors, %d bytes of RAM", r.CPUs, r.MemoryBytes)
	}
	if len(r.Disks) > maxDevices || len(r.Networks) > maxDevices {
		return failure.New(failure.Damaged, "VM record: %d disks, %d networks", len(r.Disks), len(r.Networks))
	}
	words := []string{}
	for _, d := range r.Disks {
		words = append(words, d.DeviceID, d.Serial)
	}
	for _, n := range r.Networks {
		words = append(words, n.ID, n.Network, n.Tap)
		for _, mac := range []string{n.MAC, n.Inside().MAC} {
			if _, err := net.ParseMAC(mac); mac != "" && err != nil {
				return failure.New(failure.Damaged, "VM record: MAC %.40q", mac)
			}
		}
	}
	for _, w := range words {
		if !spelling.Word(w, maxWord) {
			return failure.New(failure.Damaged, "VM record: %.80q is no id, serial or name", w)
		}
	}
	for _, d := range r.Blobs() {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return failure.New(failure.Damaged, "VM record: digest %.80q", string(d))
		}
	}
	return nil
}

// Blobs are the image blobs that a record names anywhere, each once.
func (r *Record) Blobs() []digest.Digest {
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
