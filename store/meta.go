package store

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/names"
)

// Meta reads that of a snapshot. failure.NotFound when the whole snapshot is gone,
// failure.Damaged when its meta.json alone is lost.
func (s *Store) Meta(id ID) (Meta, error) {
	if !spelling.ID(id) {
		return Meta{}, failure.New(failure.NotFound, "no snapshot %q", id)
	}
	return readMeta(s.Path("snapshots", string(id)))
}

// Names finds snapshots by name, and says which are free.
func (s *Store) Names() *names.Names {
	return names.Of(s.at, func(id ID) (string, error) {
		m, err := s.Meta(id)
		return m.Name, err
	})
}

// readMeta reads what each published snapshot has: one without is damaged, and
// its protection unknown. failure.NotFound when the whole snapshot is gone.
func readMeta(dir string) (Meta, error) {
	b, err := rawMeta(dir)
	if err != nil {
		return Meta{}, err
	}
	m, err := document.DecodeMeta(b)
	if err != nil {
		return Meta{}, lostMeta(dir, err)
	}
	return m, nil
}

// rawMeta gives meta.json as it stands.
func rawMeta(dir string) ([]byte, error) {
	b, err := document.MetaFile.Read(filepath.Join(dir, "meta.json"))
	if !errors.Is(err, os.ErrNotExist) {
		if errors.Is(err, failure.Damaged) || errors.Is(err, unix.ENOTDIR) {
			err = lostMeta(dir, err)
		}
		return b, err
	}
	if _, gone := os.Lstat(dir); errors.Is(gone, os.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "no snapshot %s", filepath.Base(dir))
	}
	return nil, lostMeta(dir, errors.New("it is missing"))
}

// changeable refuses to write a meta.json anew in which a newer program has noted
// what this one would forget.
func changeable(dir string) error {
	b, err := rawMeta(dir)
	if err != nil {
		return err
	}
	if err := durable.DecodeAll(b, &Meta{}); err != nil {
		return failure.Hint(failure.New(failure.Incompatible, "%s/meta.json: %w: a newer cocoon wrote it", dir, err), "use the newer program")
	}
	return nil
}

func lostMeta(dir string, why error) error {
	return failure.Hint(failure.New(failure.Damaged, "%s/meta.json: %w", dir, why), hint.Repair.Of())
}

// SetMeta changes a snapshot's meta.json. A new name must be free.
func (s *Store) SetMeta(ctx context.Context, id ID, change func(*Meta) error) error {
	return s.Names().Lock(ctx, func() error {
		if _, err := os.Stat(s.Path("snapshots", string(id), "manifest.json")); err != nil {
			return failure.New(failure.NotFound, "no snapshot %s", id)
		}
		dir := s.Path("snapshots", string(id))
		m, err := readMeta(dir)
		if err == nil {
			err = changeable(dir)
		}
		if err != nil {
			return err
		}
		old, labels, origin := m.Name, maps.Clone(m.Labels), m.Origin
		if err := change(&m); err != nil {
			return err
		}
		m.Origin = origin // nothing that happens later changes it
		if err := m.CheckLabels(labels); err != nil {
			return err
		}
		b, err := m.Encode()
		if err != nil {
			return err
		}
		if m.Name == old {
			return document.MetaFile.Write(filepath.Join(dir, "meta.json"), b, 0o600)
		}
		err = s.Names().Take(id, m.Name)
		if err == nil {
			err = document.MetaFile.Write(filepath.Join(dir, "meta.json"), b, 0o600)
		}
		if err != nil {
			s.Names().Drop(m.Name)
			return err
		}
		durable.Step("store.name.given")
		s.Names().Drop(old)
		return nil
	})
}
