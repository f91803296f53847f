package document

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
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
	// Origin is nil where an earlier program published the snapshot.
	Origin *Origin `json:"origin,omitempty"`

	// Own are reserved labels of a new snapshot, which it has from then on.
	Own map[string]string `json:"-"`
}

// DecodeMeta reads meta.json.
func DecodeMeta(b []byte) (Meta, error) {
	var m Meta
	if err := json.Unmarshal(b, &m); err != nil {
		return Meta{}, err
	}
	return m, nil
}

// Check refuses, before anything is done for it, what a new snapshot may not be
// given.
func (m Meta) Check() error {
	if m.Name != "" {
		if err := spelling.CheckSnapshotName(m.Name); err != nil {
			return err
		}
	}
	if err := m.CheckLabels(nil); err != nil {
		return err
	}
	_, err := m.Encode()
	return err
}

// Encode gives the bytes of meta.json.
func (m Meta) Encode() ([]byte, error) {
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	if len(m.Own) > 0 {
		m.Labels = maps.Clone(m.Labels)
		maps.Copy(m.Labels, m.Own)
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = MetaFile.Check(b)
	}
	return b, err
}

// Quarantine is the mark on a damaged snapshot. Nothing is moved: what is sound
// of it may be needed by others, and may help to repair it.
type Quarantine struct {
	Since   time.Time `json:"since"`
	Objects []string  `json:"objects"` // as in repair.Damage
}

// formerLimit bounds how many manifests are remembered.
const formerLimit = 64

// Remember notes that a manifest means this snapshot too.
func (m *Meta) Remember(d digest.Digest) {
	m.Former = slices.DeleteFunc(m.Former, func(x digest.Digest) bool { return x == d })
	m.Former = slices.Insert(m.Former, 0, d)
	m.Former = m.Former[:min(len(m.Former), formerLimit)]
}
