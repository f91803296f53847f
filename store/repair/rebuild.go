package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/keyring"
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

// rebuild makes a damaged pack whole again, byte for byte, from what is sound of it
// and from copies of its pages anywhere in the store, and says how. It is
// failure.Damaged when that cannot be done; the file is then left as it was.
func rebuild(ctx context.Context, st *store.Store, in *store.Ingest, d digest.Digest, affects []store.ID, o Options) (how string, err error) {
	h, how, err := searched(ctx, st, in, d, affects, o)
	if err != nil {
		return "", err
	}
	defer h.Close()
	if len(h.at) > 0 {
		how += fmt.Sprintf(", %d pages were taken from %s", len(h.at), h.from())
	}
	return how, h.write(ctx, in, o.DryRun)
}

// searched opens a damaged pack, rebuilds a lost index from its frames, which it
// says, and has looked for the pages that are lost. Close the answer.
func searched(ctx context.Context, st *store.Store, in *store.Ingest, d digest.Digest, affects []store.ID, o Options) (h *finder, how string, err error) {
	f, size, err := st.OpenPack(ctx, d)
	if err != nil {
		return nil, "", err
	}
	ix, err := pack.ReadIndex(f, size, st)
	how = "its index is sound"
	if errors.Is(err, failure.Damaged) {
		ix, err = pack.Reindex(f, size, st)
		how = "its index was made again from its frames"
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("pack %s: %w", d, err), f.Close())
	}
	h = &finder{st: st, d: d, file: f, ix: ix, want: map[pack.Hash]bool{}, at: map[pack.Hash]int64{}}
	if err := h.search(ctx, in, affects, o); err != nil {
		return nil, "", errors.Join(err, h.Close())
	}
	return h, how, nil
}

// finder looks for the pages that a pack has lost.
type finder struct {
	st      *store.Store
	d       digest.Digest
	file    pack.ReaderAtCloser
	ix      *pack.Index
	want    map[pack.Hash]bool  // still to be found
	at      map[pack.Hash]int64 // found: offset in scratch
	scratch *os.File
	end     int64
	sources []string
	failed  error
}

func (h *finder) from() string {
	out := h.sources[0]
	if n := len(h.sources); n > 1 {
		out += fmt.Sprintf(" and %d more", n-1)
	}
	return out
}

// take keeps a page that was found.
func (h *finder) take(hash pack.Hash, page []byte, source string) {
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

// Close lets go of the pack and of the pages that were found.
func (h *finder) Close() error {
	err := h.file.Close()
	if h.scratch != nil {
		err = errors.Join(err, h.scratch.Close())
	}
	return err
}

func (h *finder) search(ctx context.Context, in *store.Ingest, affects []store.ID, o Options) error {
	lost, err := pack.Damages(h.file, h.ix)
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
	return errors.Join(err, h.failed)
}

// openScratch makes the file for pages that are found; in memory where they are
// of an encrypted pack, for they are plain in it.
func (h *finder) openScratch(in *store.Ingest) (*os.File, error) {
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
func (h *finder) inPacks(ctx context.Context) error {
	seen := map[digest.Digest]bool{h.d: true}
	for sn, err := range h.st.List(ctx) {
		if err != nil {
			continue // a damaged snapshot is reported elsewhere
		}
		for _, l := range sn.Manifest.Layers {
			if l.MediaType != store.MediaTypePack || seen[l.Digest] || len(h.want) == 0 {
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

func (h *finder) inPack(ctx context.Context, d digest.Digest) error {
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
func (h *finder) inCopies(ctx context.Context, affects []store.ID, o Options) error {
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

func (h *finder) inCopy(ctx context.Context, sn *store.Snapshot, c RawCopy) error {
	m, err := contents.Of(h.st, sn).Map(ctx, c.Map)
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

// write writes the pack anew and puts it in the place of the damaged one.
func (h *finder) write(ctx context.Context, in *store.Ingest, dryRun bool) error {
	again := func(w io.Writer) error { return pack.Rebuild(w, h.file, h.ix, h.d, h.copyOf) }
	if dryRun {
		return again(io.Discard)
	}
	if err := in.Replace(h.d, again); err != nil {
		return err
	}
	return ctx.Err()
}
