package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
)

// Meta is what may change about a snapshot: meta.json, rewritten atomically.
type Meta struct {
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Labels      map[string]string `json:"labels"`
	Expires     *time.Time        `json:"expires,omitempty"`
	Protected   bool              `json:"protected"`
	Quarantine  *Quarantine       `json:"quarantine,omitempty"`
	// Former are the manifests that mean this snapshot too, the last one first,
	// by what this store itself did or compared. A foreign manifest has no say.
	Former []digest.Digest `json:"former,omitempty"`
}

func readMeta(dir string) (Meta, error) {
	var m Meta
	b, err := durable.ReadSmall(filepath.Join(dir, "meta.json"), metaLimit)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil // a name lost is no snapshot lost
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, failure.New(failure.Damaged, "%s/meta.json: %w", dir, err)
	}
	return m, nil
}

func (m Meta) encode() ([]byte, error) {
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	return json.Marshal(m)
}

// names makes a check of names and what follows from it one step.
func (s *Store) names(ctx context.Context, f func() error) error {
	lock, err := filelock.Exclusive(ctx, s.Path("names.lock"))
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// SetMeta changes a snapshot's meta.json. A new name must be free.
func (s *Store) SetMeta(ctx context.Context, id ID, change func(*Meta) error) error {
	return s.names(ctx, func() error {
		if _, err := os.Stat(s.Path("snapshots", string(id), "manifest.json")); err != nil {
			return failure.New(failure.NotFound, "no snapshot %s", id)
		}
		dir := s.Path("snapshots", string(id))
		m, err := readMeta(dir)
		if err != nil {
			return err
		}
		old := m.Name
		if err := change(&m); err != nil {
			return err
		}
		if m.Name != old {
			v, err := s.claimName(id, m.Name, true)
			if err != nil {
				return err
			}
			s.vouch(v)
		}
		b, err := m.encode()
		if err != nil {
			return err
		}
		return durable.WriteFile(filepath.Join(dir, "meta.json"), b, 0o600)
	})
}

// NameFree refuses a name that cannot be given now; "" can always. It is a
// forecast: whoever takes the name asks again, under names.lock.
func (s *Store) NameFree(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if err := ValidateName(name); err != nil {
		return err
	}
	id, err := s.idOf(ctx, name)
	if err != nil || id == "" {
		return err
	}
	return failure.New(failure.Conflict, "snapshot name %q is taken by %s", name, id)
}
