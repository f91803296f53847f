package main

import (
	"context"

	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// waiting reports every wait for a lock on stderr.
func (a *app) waiting(ctx context.Context) context.Context {
	return house.Waiting(ctx, func() house.Settings { return a.config }, a.tell)
}
