package house

import (
	"context"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// FromStream is the name for an import from a stream.
const FromStream = "-"

// ImportOptions configure an import. Which of them apply depends on the kind of
// input.
type ImportOptions struct {
	Meta    store.Meta // name, description and labels
	OnBytes func(done, total int64)

	// Of a folder that a VMM wrote; capture.ImportRequest says more.
	Parent     string
	TrustPaths bool
	Boot       vm.BootPaths
	OnNote     func(text, hint string) // may be nil

	// Of an OCI image layout; registry.PullOptions says more.
	Tag       string // where it holds several snapshots
	TrustArgs bool
	NewID     bool
}

// Check refuses options that do not apply to the input, before anything is
// opened.
func (o ImportOptions) Check(src string) error {
	if ofVMM(src) {
		if o.Tag != "" || o.TrustArgs || o.NewID {
			return failure.New(failure.Usage, "%s, %s and %s are for an OCI image layout, %s is a folder without oci-layout", hint.Tag, hint.TrustArgs, hint.NewID, src)
		}
		return nil
	}
	if o.Parent != "" || o.TrustPaths || o.Boot.Any() {
		return failure.New(failure.Usage, "%s, %s, %s, %s and %s are for a Cloud Hypervisor snapshot folder", hint.Parent, hint.TrustPaths, hint.Kernel, hint.Firmware, hint.Initramfs)
	}
	return nil
}

// Import imports a snapshot: an OCI image layout, which is a folder, an archive
// or with FromStream the contents of r, or a folder written by a VMM.
func (h *House) Import(ctx context.Context, src string, r io.Reader, o ImportOptions) (*store.Snapshot, error) {
	if err := o.Check(src); err != nil {
		return nil, err
	}
	if ofVMM(src) {
		importer := &capture.Importer{Store: h.Store, Images: h.Images, Prints: h.o.fingerprints}
		return importer.Import(ctx, capture.ImportRequest{
			Dir: src, Name: o.Meta.Name, Description: o.Meta.Description, Labels: o.Meta.Labels,
			Parent: o.Parent, TrustPaths: o.TrustPaths, Boot: o.Boot, OnNote: o.OnNote, OnBytes: o.OnBytes,
		})
	}
	m, err := h.mover(Transfer{OnBytes: o.OnBytes})
	if err != nil {
		return nil, err
	}
	p := registry.PullOptions{Meta: o.Meta, TrustArgs: o.TrustArgs, NewID: o.NewID}
	switch {
	case src == FromStream:
		return m.ImportStream(ctx, r, o.Tag, p)
	case isFolder(src):
		return m.ImportDir(ctx, src, o.Tag, p)
	}
	return m.ImportFile(ctx, src, o.Tag, p)
}

// ofVMM distinguishes a folder written by a VMM from an image layout.
func ofVMM(src string) bool { return src != FromStream && isFolder(src) && !registry.IsLayout(src) }

func isFolder(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
