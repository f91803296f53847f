package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// RawCopy is a file that may still hold pages of one image of a snapshot, raw,
// from Offset on: materialised RAM, a VM's disk. It is never believed: every
// page is compared with its hash.
type RawCopy struct {
	Path   string
	Offset int64
	Map    digest.Digest // page map of the image
}

// HealOptions of Heal.
type HealOptions struct {
	DryRun bool
	// Copies gives the raw files that a snapshot's images may be found in.
	Copies func(context.Context, *Snapshot) []RawCopy
}

// Heal makes a damaged pack whole again, byte for byte, from what is sound of it
// and from copies of its pages anywhere in the store, and says how. It is
// failure.Damaged when that cannot be done; the file is then left as it was.
func (s *Store) Heal(ctx context.Context, in *Ingest, d digest.Digest, affects []ID, o HealOptions) (how string, err error) {
	f, err := os.OpenFile(s.BlobPath(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", failure.New(failure.Damaged, "pack %s is missing, and its index with it", d)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	ix, err := pack.ReadIndex(f, fi.Size(), s)
	how = "its index is sound"
	if errors.Is(err, failure.Damaged) {
		ix, err = pack.Reindex(f, fi.Size(), s)
		how = "its index was made again from its frames"
	}
	if err != nil {
		return "", fmt.Errorf("pack %s: %w", d, err)
	}
	h := &healer{st: s, d: d, ix: ix, want: map[pack.Hash]bool{}, at: map[pack.Hash]int64{}}
	if err := h.search(ctx, in, f, affects, o); err != nil {
		return "", err
	}
	defer h.scratch.Close()
	if len(h.at) > 0 {
		how += fmt.Sprintf(", %d pages were taken from %s", len(h.at), h.from())
	}
	return how, h.mend(ctx, in, f, o.DryRun)
}

// healer looks for the pages that a pack has lost.
type healer struct {
	st      *Store
	d       digest.Digest
	ix      *pack.Index
	want    map[pack.Hash]bool  // still to be found
	at      map[pack.Hash]int64 // found: offset in scratch
	scratch *os.File
	end     int64
	sources []string
	failed  error
}

func (h *healer) from() string {
	out := h.sources[0]
	if n := len(h.sources); n > 1 {
		out += fmt.Sprintf(" and %d more", n-1)
	}
	return out
}

// take keeps a page that was found.
func (h *healer) take(hash pack.Hash, page []byte, source string) {
	if !h.want[hash] || h.failed != nil {
		return
	}
	if _, h.failed = h.scratch.WriteAt(page, h.end); h.failed != nil {
		return
	}
	delete(h.want, hash)
	h.at[hash] = h.end
	h.end += pack.PageSize
	if !slices.Contains(h.sources, source) {
		h.sources = append(h.sources, source)
	}
}

func (h *healer) search(ctx context.Context, in *Ingest, f io.ReaderAt, affects []ID, o HealOptions) (err error) {
	lost, err := pack.Damages(f, h.ix)
	if err != nil {
		return err
	}
	for _, hash := range lost {
		h.want[hash] = true
	}
	if h.scratch, err = h.openScratch(in); err != nil {
		return err
	}
	if len(h.want) > 0 {
		err = h.inPacks(ctx)
	}
	if err == nil && len(h.want) > 0 && o.Copies != nil {
		err = h.inCopies(ctx, affects, o)
	}
	if err = errors.Join(err, h.failed); err != nil {
		return errors.Join(err, h.scratch.Close())
	}
	return nil
}

// openScratch makes the file for pages that are found; in memory where they are
// of an encrypted pack, for they are plain in it.
func (h *healer) openScratch(in *Ingest) (*os.File, error) {
	if h.ix.Key() == (keyring.ID{}) {
		return os.CreateTemp(in.Dir(), "pages-")
	}
	fd, err := unix.MemfdCreate("cocoon-pages", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "cocoon-pages"), nil
}

// inPacks looks through the indexes of all packs that snapshots name.
func (h *healer) inPacks(ctx context.Context) error {
	seen := map[digest.Digest]bool{h.d: true}
	for sn, err := range h.st.List(ctx) {
		if err != nil {
			continue // a damaged snapshot is told elsewhere
		}
		for _, l := range sn.Manifest.Layers {
			if l.MediaType != MediaTypePack || seen[l.Digest] || len(h.want) == 0 {
				continue
			}
			seen[l.Digest] = true
			if err := h.inPack(ctx, l.Digest); err != nil && !errors.Is(err, failure.Damaged) && !keyring.IsMissing(err) {
				return err
			}
		}
	}
	return ctx.Err()
}

func (h *healer) inPack(ctx context.Context, d digest.Digest) error {
	f, size, err := h.st.OpenPack(ctx, d)
	if err != nil {
		return err
	}
	defer f.Close()
	ix, err := pack.ReadIndex(f, size, h.st)
	if err != nil {
		return err
	}
	return pack.FindPages(f, ix, h.want, func(hash pack.Hash, page []byte) { h.take(hash, page, "pack "+string(d)) })
}

// inCopies reads raw files where the page maps say the lost pages stood.
func (h *healer) inCopies(ctx context.Context, affects []ID, o HealOptions) error {
	for _, id := range affects {
		sn, err := h.st.Get(ctx, id)
		if err != nil {
			continue // as above
		}
		for _, c := range o.Copies(ctx, sn) {
			if err := h.inCopy(ctx, sn, c); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, failure.Damaged) && !keyring.IsMissing(err) {
				return err
			}
		}
	}
	return ctx.Err()
}

func (h *healer) inCopy(ctx context.Context, sn *Snapshot, c RawCopy) error {
	m, err := h.st.ReadMap(ctx, sn, c.Map)
	if err != nil {
		return err
	}
	f, err := os.Open(c.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, pack.PageSize)
	m.Where(h.d, func(at uint64, packPage uint32) {
		if int(packPage) >= len(h.ix.Hashes) || !h.want[h.ix.Hashes[packPage]] {
			return
		}
		clear(page)
		if n, err := f.ReadAt(page, c.Offset+int64(at)*pack.PageSize); n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return
		}
		if hash := h.ix.Hashes[packPage]; pack.Sum(page) == hash {
			h.take(hash, page, c.Path)
		}
	})
	return nil
}

// mend writes the pack anew and puts it in the place of the damaged one.
func (h *healer) mend(ctx context.Context, in *Ingest, f *os.File, dryRun bool) error {
	write := func(w io.Writer) error { return pack.Mend(w, f, h.ix, h.d, h.copyOf) }
	if dryRun {
		return write(io.Discard)
	}
	if err := in.Replace(h.d, write); err != nil {
		return err
	}
	return ctx.Err()
}
