package house

import (
	"context"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/prints"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/repair"
)

// Roots are the sources of everything that keeps objects, except snapshots and
// leases.
func Roots(st *store.Store) []garbage.Source {
	return []garbage.Source{vm.Garbage(st), image.Garbage(st), image.Pins(st), image.Blobs(st)}
}

// Collect runs gc over everything on this host, as configured by o.
func (h *House) Collect(ctx context.Context, o gc.Options) (*gc.Report, error) {
	limit, err := h.o.Settings.cacheCap()
	if err != nil {
		return nil, err
	}
	if o.Grace, err = h.o.Settings.grace(); err != nil {
		return nil, err
	}
	net := h.Network(ctx)
	o.Sources = append(Roots(h.Store), h.Restorer.Garbage(net.ForgetVM), network.Garbage(net), h.VMs.Garbage(),
		ramcache.Cache{Store: h.Store, Cap: limit}.Garbage(), prints.Garbage(h.Store), repair.Garbage(h.Store))
	return gc.Collect(ctx, h.Store, o)
}

// Lost is what vanished from the store since it was last collected.
func (h *House) Lost(ctx context.Context) ([]gc.Lost, error) {
	return gc.Missing(ctx, h.Store, Roots(h.Store))
}
