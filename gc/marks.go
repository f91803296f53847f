package gc

import (
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// holder describes what needs an object, and has its id if it is a snapshot.
type holder struct{ name, snapshot string }

// marks are the needed objects. They only ever grow: what a run has once found to
// be needed stays for this run, whatever happens to the holder.
type marks struct {
	everyHolder bool // else only the first of each object is remembered
	holders     []holder
	objects     map[garbage.Key]mark
	more        []edge // further holders
}

type mark struct {
	holder uint32 // number in holders
	more   uint32 // number in marks.more, plus one
	needed bool   // a snapshot names it: it must be there
	seen   bool   // it is there
}

type edge struct{ holder, next uint32 }

func newMarks(everyHolder bool) *marks {
	return &marks{everyHolder: everyHolder, objects: map[garbage.Key]mark{}}
}

// by numbers a holder, for hold.
func (m *marks) by(h holder) uint32 {
	m.holders = append(m.holders, h)
	return uint32(len(m.holders) - 1)
}

func (m *marks) hold(o garbage.Key, by uint32, needed bool) {
	if o == (garbage.Key{}) {
		return
	}
	x, known := m.objects[o]
	switch {
	case !known:
		x.holder = by
	case m.everyHolder:
		m.more = append(m.more, edge{by, x.more})
		x.more = uint32(len(m.more))
	}
	x.needed = x.needed || needed
	m.objects[o] = x
}

// holdName is hold for a name read from a file; an empty one holds nothing.
func (m *marks) holdName(name string, by uint32, needed bool) error {
	if name == "" {
		return nil
	}
	o, ok := garbage.ParseKey(name)
	if !ok {
		return failure.New(failure.Damaged, "%s names %.80q, which is no garbage.Key", m.holders[by].name, name)
	}
	m.hold(o, by, needed)
	return nil
}

func (m *marks) held(o garbage.Key) bool {
	_, ok := m.objects[o]
	return ok
}

// see notes that an object exists and reports whether it is needed.
func (m *marks) see(o garbage.Key) bool {
	x, ok := m.objects[o]
	if ok && !x.seen {
		x.seen = true
		m.objects[o] = x
	}
	return ok
}

// holdersOf an object, the first one first.
func (m *marks) holdersOf(o garbage.Key) []holder {
	x, ok := m.objects[o]
	if !ok {
		return nil
	}
	out := []holder{m.holders[x.holder]}
	for at := x.more; at != 0; at = m.more[at-1].next {
		out = append(out, m.holders[m.more[at-1].holder])
	}
	return out
}
