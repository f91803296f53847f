package store

import (
	"context"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/layout"
)

// A snapshot is encrypted with one key or with none: its packs, its page maps
// and the VMM's documents, whose bytes are the guest's. The manifest, the spec
// and meta.json stay in the clear, so that listing, removing, collecting and
// copying need no key; the spec names the key, and the manifest carries a MAC of
// the spec, so that nobody without the key can change what a restore does
// (docs/encryption.md). Whoever stores parts of a snapshot again, as a repack
// does, has to do so under the key of that snapshot, not the one that new ones
// get: an ingest with that key, maps by EncodeFor, the spec by putSpec; and has
// to leave it alone where the key is not at hand ([keyring.Missing]).
//
// The first snapshot that is encrypted makes the store's format version 2: older
// programs keep away, and this one stores nothing in the clear any more unless
// it is told to.

// Key makes Store a pack.Source.
func (s *Store) Key(id keyring.ID) (*keyring.Key, error) { return s.keys.Key(id) }

// SealingKey is the key that new snapshots are encrypted with; nil when they
// are to be plain. It refuses to go on in the clear where snapshots are
// encrypted and nobody said that this is wanted: a setting was forgotten.
func (s *Store) SealingKey() (*keyring.Key, error) {
	k, explicit, err := s.keys.Sealing()
	if err != nil || k != nil || explicit {
		return k, err
	}
	v, err := s.at.Version()
	if err != nil {
		return nil, err
	}
	if v >= layout.Encrypted {
		return nil, failure.Hint(failure.New(failure.Incompatible, "snapshots of store %s are encrypted, and no key file is configured", s.at.Root()),
			"name it with "+hint.KeyFile.Of()+", COCOON_KEY_FILE or keyFile; "+hint.KeyFile.Of()+" none stores in the clear")
	}
	return nil, nil
}

// markEncrypted makes the format version 2, before anything encrypted is kept.
func (s *Store) markEncrypted() error {
	if v, err := s.at.Version(); err != nil || v >= layout.Encrypted {
		return err
	}
	if err := s.at.SetVersion(layout.Encrypted); err != nil {
		return fmt.Errorf("mark the store as encrypted: %w", err)
	}
	durable.Step("store.encrypt.marked")
	return nil
}

// Key is what the ingest encrypts with, nil where it stores in the clear; it is
// decided once for the whole ingest.
func (in *Ingest) Key() (*keyring.Key, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.decided {
		return in.key, nil
	}
	k, err := in.st.SealingKey()
	if err == nil && k != nil {
		err = in.st.markEncrypted()
	}
	if err != nil {
		return nil, err
	}
	in.key, in.decided = k, true
	return k, nil
}

// Use decides that what the ingest stores from here on is encrypted with the key
// of this id, or plain where it is "".
func (in *Ingest) Use(key string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.key, in.decided = nil, true
	if key == "" {
		return nil
	}
	id, err := keyring.ParseID(key)
	if err == nil {
		in.key, err = in.st.keys.Key(id)
	}
	if err == nil {
		err = in.st.markEncrypted()
	}
	return err
}

// keyOf notes in a spec which key the ingest uses.
func (in *Ingest) keyOf(sp *Spec) error {
	k, err := in.Key()
	if err != nil {
		return err
	}
	sp.EncryptWith(keyName(k))
	return nil
}

// keyName is what a spec says of a key, "" of none.
func keyName(k *keyring.Key) string {
	if k == nil {
		return ""
	}
	return k.ID().String()
}

// putSpec stores a spec, authenticated with the ingest's key, and gives the
// descriptor that belongs into its manifest.
func (in *Ingest) putSpec(ctx context.Context, sp *Spec) (Descriptor, error) {
	k, err := in.Key()
	if err != nil {
		return Descriptor{}, err
	}
	b, err := sp.Encode()
	if err != nil {
		return Descriptor{}, err
	}
	config, err := in.Put(ctx, MediaTypeConfig, b)
	if err == nil && k != nil {
		config.Annotations = contents.Vouch(k, b)
	}
	return config, err
}

// sealed are the media types of documents that hold what is the guest's.
func sealed(mediaType string) bool {
	return mediaType == MediaTypeCHConfig || mediaType == MediaTypeCHState
}

// seal encrypts a document that is to be, if this ingest has a key.
func (in *Ingest) seal(mediaType string, data []byte) ([]byte, error) {
	if !sealed(mediaType) {
		return data, nil
	}
	k, err := in.Key()
	if err != nil || k == nil {
		return data, err
	}
	return k.Seal(mediaType, data), nil
}
