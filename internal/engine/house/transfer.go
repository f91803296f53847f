package house

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
	"github.com/cocoonv2/cocoon/store"
)

// Transfer says how a snapshot is moved in OCI form.
type Transfer struct {
	PlainHTTP     bool
	Concurrency   int  // blobs under way at once; 0 is 4
	WithoutImages bool // of what leaves: the other side has the images
	OnBytes       func(done, total int64)
}

// Check comes before anything is opened.
func (t Transfer) Check() error {
	if t.Concurrency < 0 || t.Concurrency > 64 {
		return failure.New(failure.Usage, "%s %d: 1 to 64", hint.Concurrency, t.Concurrency)
	}
	return nil
}

func (h *House) mover(t Transfer) (*registry.Mover, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	idle, err := config.ParseDuration("registryTimeout", h.o.Settings.Of("registryTimeout"))
	if err != nil {
		return nil, err
	}
	return &registry.Mover{Store: h.Store, Images: h.Images, Idle: idle, Concurrency: t.Concurrency, PlainHTTP: t.PlainHTTP, OnBytes: t.OnBytes}, nil
}

// Push copies a snapshot to REGISTRY/NAME:TAG.
func (h *House) Push(ctx context.Context, ref, to string, t Transfer) (*registry.Pushed, error) {
	m, err := h.mover(t)
	if err != nil {
		return nil, err
	}
	return m.Push(ctx, ref, to, !t.WithoutImages)
}

// Pull takes in a snapshot from REGISTRY/NAME:TAG.
func (h *House) Pull(ctx context.Context, from string, o registry.PullOptions, t Transfer) (*store.Snapshot, error) {
	m, err := h.mover(t)
	if err != nil {
		return nil, err
	}
	return m.Pull(ctx, from, o)
}
