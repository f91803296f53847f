package store

import (
	"sync"
	"weak"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store/pack"
)

// mapMemo gives a page map again that was decoded a moment ago: a restore looks
// at the same one when it plans, when it asks for room and when it reads. Page
// maps are named by their content and nobody changes one, so sharing is safe.
// It keeps none alive: what is not in use goes with the next garbage collection.
type mapMemo struct {
	mu   sync.Mutex
	last map[mapKey]weak.Pointer[pack.Map]
}

// mapKey: a map that one key opens is not open to a snapshot of another.
type mapKey struct {
	digest digest.Digest
	key    string // of the snapshot, "" for a plain one
}

// memoMaps bounds the dead entries.
const memoMaps = 16

func (m *mapMemo) get(k mapKey, read func() (*pack.Map, error)) (*pack.Map, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.last[k].Value(); p != nil {
		return p, nil
	}
	p, err := read()
	if err != nil {
		return nil, err
	}
	if len(m.last) >= memoMaps || m.last == nil {
		m.last = map[mapKey]weak.Pointer[pack.Map]{}
	}
	m.last[k] = weak.Make(p)
	return p, nil
}
