package house

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
)

// Mover is what moves snapshots in OCI form; its other fields are the caller's to
// fill in.
func (h *House) Mover() (*registry.Mover, error) {
	idle, err := config.ParseDuration("registryTimeout", h.o.Settings.Of("registryTimeout"))
	if err != nil {
		return nil, err
	}
	return &registry.Mover{Store: h.Store, Images: h.Images, Idle: idle}, nil
}

// Importer takes in folders that somebody else made.
func (h *House) Importer() *capture.Importer {
	return &capture.Importer{Store: h.Store, Images: h.Images, Prints: h.o.fingerprints}
}

// ExportCH writes a folder that a bare VMM restores from; onBytes may be nil.
func (h *House) ExportCH(ctx context.Context, ref, dir string, onBytes func(done, total int64)) error {
	return h.Restorer.ExportCH(ctx, ref, dir, onBytes)
}
