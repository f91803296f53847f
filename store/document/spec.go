package document

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// Media types of what a manifest names.
const (
	ArtifactType      = "application/vnd.cocoon.snapshot.v1"
	MediaTypeConfig   = "application/vnd.cocoon.snapshot.config.v1+json"
	MediaTypePageMap  = "application/vnd.cocoon.pagemap.v1"
	MediaTypePack     = "application/vnd.cocoon.pack.v1+zstd"
	MediaTypeCHConfig = "application/vnd.cocoon.ch.config.v1+json"
	MediaTypeCHState  = "application/vnd.cocoon.ch.state.v1+json"
)

// ID of a snapshot: 32 hex digits.
type ID = spelling.SnapshotID

// Descriptor names one blob: media type, digest, size.
type Descriptor = ocispec.Descriptor

// Spec is what never changes about a snapshot; it is the OCI config blob. Anybody
// may have written it: what a VM is rebuilt from is judged by vm.Agree, and the
// strings that would become arguments are claims until then.
type Spec struct {
	Version    int             `json:"version"`
	ID         ID              `json:"id"`
	Created    time.Time       `json:"created"`
	VM         VMRef           `json:"vm"`
	Hypervisor Hypervisor      `json:"hypervisor"`
	CPUs       int             `json:"cpus"`
	Memory     []MemoryRange   `json:"memory"`
	Disks      []Disk          `json:"disks"`
	Networks   []Network       `json:"networks"`
	Images     []ImageRef      `json:"images"`
	Record     json.RawMessage `json:"record"` // the VM's record at capture, opaque here
	CHConfig   digest.Digest   `json:"chConfig"`
	CHState    digest.Digest   `json:"chState"`
	Parent     ID              `json:"parent,omitempty"`
	Capture    Capture         `json:"capture"`
	Host       Host            `json:"host"`
	Key        string          `json:"key,omitempty"` // id of the key it is encrypted with
}

// VMRef names the VM that was saved; ID is empty for an imported folder.
type VMRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Hypervisor that made the state; Version like "53.0.0", "" when unknown.
type Hypervisor struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// MemoryRange is one range of guest RAM, in the order of memory-ranges.
type MemoryRange struct {
	GPA   uint64        `json:"gpa"`
	Bytes uint64        `json:"bytes"`
	Map   digest.Digest `json:"map"`
}

// Claim is a text that whoever made a snapshot chose: no path, argument or line
// before it was asked whether it is a word.
type Claim = spelling.Claim

// Disk is one disk at the moment of capture: exactly one of Map (pages in
// packs) and Image (a read-only image blob) is set.
type Disk struct {
	Index    int           `json:"index"`
	DeviceID Claim         `json:"deviceId"` // Cloud Hypervisor's, e.g. _disk0
	Serial   Claim         `json:"serial"`
	Format   Claim         `json:"format"`
	Bytes    int64         `json:"bytes"`
	Readonly bool          `json:"readonly"`
	Map      digest.Digest `json:"map,omitempty"`
	Image    digest.Digest `json:"image,omitempty"`
}

// Network is one interface as the guest knew it at the moment of capture.
type Network struct {
	ID         Claim          `json:"id"`            // Cloud Hypervisor's, e.g. _net0
	Name       Claim          `json:"name,omitzero"` // of the network it was on
	MAC        Claim          `json:"mac"`
	IPs        []netip.Prefix `json:"ips,omitempty"` // none where cocoon did not give them
	Gateways   []netip.Addr   `json:"gateways,omitempty"`
	GatewayMAC Claim          `json:"gatewayMac,omitzero"` // of the first IPv4 gateway
	MTU        int            `json:"mtu,omitempty"`       // bytes
}

// ImageRef is a blob under images/ that the VM stands on.
type ImageRef struct {
	Digest digest.Digest `json:"digest"`
	Role   string        `json:"role"` // kernel, firmware, initramfs, disk
	Bytes  int64         `json:"bytes"`
}

// Capture says how the snapshot was taken and what it cost.
type Capture struct {
	Mode        string  `json:"mode"` // live, file, import
	PauseMs     float64 `json:"pauseMs"`
	TotalMs     float64 `json:"totalMs"`
	PagesNew    uint64  `json:"pagesNew"`
	PagesReused uint64  `json:"pagesReused"`
	PagesZero   uint64  `json:"pagesZero"`
}

// Host facts that a restore elsewhere compares.
type Host struct {
	Kernel   string   `json:"kernel"`
	CPUModel string   `json:"cpuModel"`
	CPUFlags []string `json:"cpuFlags"`
	VMMBuild string   `json:"vmmBuild,omitempty"` // of Hypervisor, as its --version says: where git was
}

// Versions of Spec: 2 has a Key, and a program that knows only 1 must not take
// what it cannot read for damage.
const (
	plainSpecVersion     = 1
	encryptedSpecVersion = 2
)

// DecodeSpec reads a config blob and checks what the code below relies on.
func DecodeSpec(b []byte) (Spec, error) {
	var sp Spec
	if SpecFile.Check(b) != nil {
		return sp, failure.New(failure.Damaged, "snapshot config of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &sp); err != nil {
		return sp, failure.New(failure.Damaged, "snapshot config: %w", err)
	}
	if sp.Version != plainSpecVersion && sp.Version != encryptedSpecVersion {
		return sp, failure.New(failure.Incompatible, "snapshot config version %d is unknown", sp.Version)
	}
	return sp, sp.Check()
}

// Check refuses a spec that what follows could not rely on.
func (sp *Spec) Check() error {
	if !spelling.ID(string(sp.ID)) {
		return failure.New(failure.Damaged, "snapshot config: id %q", sp.ID)
	}
	if _, err := keyring.ParseID(sp.Key); (sp.Version == encryptedSpecVersion) != (sp.Key != "") || sp.Key != "" && err != nil {
		return failure.New(failure.Damaged, "snapshot config: key %.40q in version %d", sp.Key, sp.Version)
	}
	digests := []digest.Digest{sp.CHConfig, sp.CHState}
	for _, m := range sp.Memory {
		digests = append(digests, m.Map)
	}
	for _, d := range sp.Disks {
		if (d.Map == "") == (d.Image == "") {
			return failure.New(failure.Damaged, "snapshot config: disk %d needs a page map or an image", d.Index)
		}
		digests = append(digests, d.Map+d.Image)
	}
	for _, im := range sp.Images {
		digests = append(digests, im.Digest)
	}
	for _, d := range digests {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return failure.New(failure.Damaged, "snapshot config: digest %q", d)
		}
	}
	return nil
}

// EncryptWith notes the id of the key that the snapshot is encrypted with, "" for none.
func (sp *Spec) EncryptWith(key string) {
	sp.Version, sp.Key = plainSpecVersion, key
	if key != "" {
		sp.Version = encryptedSpecVersion
	}
}

// Encode gives the bytes of the config blob.
func (sp *Spec) Encode() ([]byte, error) {
	b, err := json.Marshal(sp)
	if err == nil {
		err = SpecFile.Check(b)
	}
	return b, err
}

// StandsOn refuses layers that lack a blob which the spec names: neither the
// collector nor an export would keep it.
func (sp *Spec) StandsOn(layers []Descriptor) error {
	for _, d := range append(sp.PageMaps(), sp.CHConfig, sp.CHState) {
		if !slices.ContainsFunc(layers, func(l Descriptor) bool { return l.Digest == d }) {
			return failure.New(failure.Damaged, "the manifest does not name blob %s, which the snapshot needs", d)
		}
	}
	return nil
}

// Edges are the digests of everything a snapshot needs: every blob of the
// manifest and every image blob.
func Edges(sn *Snapshot) []digest.Digest {
	out := []digest.Digest{sn.Manifest.Config.Digest}
	for _, l := range sn.Manifest.Layers {
		out = append(out, l.Digest)
	}
	return append(out, sn.Spec.ImageDigests()...)
}

// ImageDigests are those of the image blobs that the VM stands on.
func (sp *Spec) ImageDigests() []digest.Digest {
	var out []digest.Digest
	for _, im := range sp.Images {
		out = append(out, im.Digest)
	}
	for _, d := range sp.Disks {
		if d.Image != "" {
			out = append(out, d.Image)
		}
	}
	return out
}

// PageMaps are those of RAM and disks.
func (sp *Spec) PageMaps() []digest.Digest {
	var out []digest.Digest
	for _, m := range sp.Memory {
		out = append(out, m.Map)
	}
	for _, d := range sp.Disks {
		if d.Map != "" {
			out = append(out, d.Map)
		}
	}
	return out
}
