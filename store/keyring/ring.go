package keyring

import (
	"strings"
	"sync"
)

// Plain in place of the first key file means that new data is not encrypted, even
// if it otherwise would be.
const Plain = "none"

// Ring is a list of key files. Nil is an empty one. It is safe for concurrent
// use.
type Ring struct {
	plain bool
	paths []string

	once sync.Once
	keys []*Key
	err  error
}

// NewRing takes key files separated by ":": the first encrypts new data, the
// others only decrypt. The first may be [Plain]. Nothing is read yet.
func NewRing(list string) *Ring {
	r := &Ring{}
	for _, path := range strings.Split(list, ":") {
		switch {
		case path == Plain && len(r.paths) == 0:
			r.plain = true
		case path != "":
			r.paths = append(r.paths, path)
		}
	}
	return r
}

// Files are the paths of the ring.
func (r *Ring) Files() []string { return r.paths }

// FromKeys is a ring without files.
func FromKeys(keys ...*Key) *Ring {
	r := &Ring{keys: keys}
	r.once.Do(func() {})
	return r
}

func (r *Ring) load() ([]*Key, error) {
	if r == nil {
		return nil, nil
	}
	r.once.Do(func() {
		for _, path := range r.paths {
			k, err := Load(path)
			if err != nil {
				r.err = err
				return
			}
			r.keys = append(r.keys, k)
		}
	})
	return r.keys, r.err
}

// Sealing returns the key for new data: nil if it is to be stored plain.
func (r *Ring) Sealing() (k *Key, explicit bool, err error) {
	keys, err := r.load()
	switch {
	case err != nil || r == nil:
		return nil, false, err
	case r.plain:
		return nil, true, nil
	case len(keys) == 0:
		return nil, false, nil
	}
	return keys[0], true, nil
}

// Key returns the key of an id; if no file has it, that is [Missing].
func (r *Ring) Key(id ID) (*Key, error) {
	keys, err := r.load()
	if err != nil {
		return nil, err
	}
	var have []ID
	for _, k := range keys {
		if k.id == id {
			return k, nil
		}
		have = append(have, k.id)
	}
	return nil, missing(id, have)
}
