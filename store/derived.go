package store

import (
	"context"
	"errors"
	"os"
)

// DropDerived removes what is rebuilt on demand from the manifests.
func (s *Store) DropDerived(ctx context.Context) error {
	return s.names(ctx, func() error {
		for _, path := range []string{s.summaryPath(), s.namesPath()} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}
