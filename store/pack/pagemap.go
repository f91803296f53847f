package pack

import (
	"math"
	"slices"

	"github.com/opencontainers/go-digest"
)

// ZeroPack is the pack number that stands for zero pages. Maps never hold it:
// a page that no run covers is zero.
const ZeroPack = math.MaxUint32

// maxMapPacks bounds the packs of one map (64 TiB of packs).
const maxMapPacks = 1 << 20

// Run says that image pages First..First+Pages-1 are the pages
// PackPage..PackPage+Pages-1 of the pack Map.Packs[Pack].
type Run struct {
	First, Pages uint64
	Pack         uint32
	PackPage     uint32
}

// Map is where each page of one image stands. Runs cover the pages that are
// not zero, sorted by First, without overlap and as long as they can be.
// Bytes is the image's length; the part of the last page beyond it is zero.
type Map struct {
	Bytes uint64
	Packs []digest.Digest
	Runs  []Run
}

// Stat counts the pages of the image: zero ones, and ones that a pack holds.
func (m *Map) Stat() (zeroPages, storedPages uint64) {
	for _, r := range m.Runs {
		storedPages += r.Pages
	}
	return PagesOf(m.Bytes) - storedPages, storedPages
}

// zeroBytes is the bytes of the image that are in no pack; its last page may be
// a short one.
func (m *Map) zeroBytes() int64 {
	zero := m.Bytes
	for _, r := range m.Runs {
		zero -= min((r.First+r.Pages)*PageSize, m.Bytes) - r.First*PageSize
	}
	return int64(zero)
}

// check holds a map to its invariants; the error is failure.Damaged.
func (m *Map) check() error {
	if m.Bytes > MaxImageBytes || len(m.Packs) > maxMapPacks {
		return damaged("page map: %d bytes in %d packs", m.Bytes, len(m.Packs))
	}
	for i, d := range m.Packs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return damaged("page map: pack %d is no SHA-256 digest: %.80q", i, string(d))
		}
	}
	pages := PagesOf(m.Bytes)
	var end uint64
	for i, r := range m.Runs {
		switch {
		case r.Pages == 0 || r.First < end || r.First >= pages || r.Pages > pages-r.First:
			return damaged("page map: run %d covers %d pages at %d of %d, after %d", i, r.Pages, r.First, pages, end)
		case int64(r.Pack) >= int64(len(m.Packs)) || r.Pages > MaxPackPages || uint64(r.PackPage)+r.Pages > MaxPackPages:
			return damaged("page map: run %d names page %d+%d of pack %d of %d", i, r.PackPage, r.Pages, r.Pack, len(m.Packs))
		case i > 0 && m.Runs[i-1].continuedBy(r):
			return damaged("page map: run %d continues the one before", i)
		}
		end = r.First + r.Pages
	}
	return nil
}

// continuedBy reports whether next lies directly behind r in image and pack.
func (r Run) continuedBy(next Run) bool {
	return r.First+r.Pages == next.First && r.Pack == next.Pack && uint64(r.PackPage)+r.Pages == uint64(next.PackPage)
}

// Number is the place of a pack in the map's list, which it may lengthen.
func (m *Map) Number(d digest.Digest) int {
	if n := slices.Index(m.Packs, d); n >= 0 {
		return n
	}
	m.Packs = append(m.Packs, d)
	return len(m.Packs) - 1
}

// Add appends one page's run, joining it to the last where it continues it.
func (m *Map) Add(r Run) {
	if n := len(m.Runs); n > 0 && m.Runs[n-1].continuedBy(r) {
		m.Runs[n-1].Pages += r.Pages
		return
	}
	m.Runs = append(m.Runs, r)
}

// Where calls visit for every page of the image that lies in pack d: its number
// in the image and its number in the pack.
func (m *Map) Where(d digest.Digest, visit func(page uint64, packPage uint32)) {
	for _, r := range m.Runs {
		if m.Packs[r.Pack] != d {
			continue
		}
		for i := range r.Pages {
			visit(r.First+i, r.PackPage+uint32(i))
		}
	}
}
