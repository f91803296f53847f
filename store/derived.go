package store

import (
	"context"
	"errors"
	"os"
)

// DropDerived removes what is rebuilt on demand from the manifests, and makes the
// links of names that are missing.
func (s *Store) DropDerived(ctx context.Context) error {
	if err := os.Remove(s.summaryPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.Names().Complete(ctx)
}
