package store

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// The family of a snapshot are the snapshots of other VMs, and of the same one,
// that stand on the same image: their pages repeat, at other addresses. The index
// says which they are; a publish appends to it, so that nobody need list before.
// What the index does not say, or says wrongly, costs reuse and nothing else: a
// page is reused when its hash stands in the checksummed index of a pack that is
// there and that the lease holds.

const (
	// familyPages bounds the pages of a family that one capture knows: 4 GiB of
	// guest RAM that is not zero, 24 MiB of our own.
	familyPages = 1 << 20
	// familyPacks bounds the files that are open for them: a VM that is captured
	// often and changes little has many small packs.
	familyPacks = 256
	// familyMembers bounds the snapshots that are looked at for them.
	familyMembers = 16
	// appendedMost is what may be appended to the index until it is made anew: some
	// 10,000 publishes without a listing, bytes.
	appendedMost = 2 << 20
)

// familyKeys are the images that make a family: the disks, or what is booted
// where no disk is an image.
func familyKeys(images []ImageRef) []digest.Digest {
	var disks, others []digest.Digest
	for _, ref := range images {
		if ref.Role == "disk" {
			disks = append(disks, ref.Digest)
		} else {
			others = append(others, ref.Digest)
		}
	}
	if len(disks) > 0 {
		return disks
	}
	return others
}

// joinFamily notes a published snapshot; best effort. An index that is missing is
// made whole by whoever asks for it.
func (s *Store) joinFamily(sn *Snapshot) {
	if lines := familyLines(nil, familyKeys(sn.Spec.Images), sn.ID); len(lines) > 0 {
		_ = refs.Append(s.indexPath(), s.identity(), lines)
	}
}

// A note of families has lines: the digest of an image, the id of a snapshot.
func familyLines(b []byte, keys []digest.Digest, id ID) []byte {
	for _, key := range keys {
		b = fmt.Appendf(b, "%s %s\n", key, id)
	}
	return b
}

// familyNote is of the last members of each family, oldest first.
func familyNote(all []cached) []byte {
	order := byAge(all)
	var lines [][]byte
	members := map[digest.Digest]int{}
	for _, i := range slices.Backward(order) {
		for _, key := range all[i].families {
			if members[key]++; members[key] <= familyMembers {
				lines = append(lines, familyLines(nil, []digest.Digest{key}, all[i].Summary.ID))
			}
		}
	}
	slices.Reverse(lines)
	return bytes.Join(lines, nil)
}

// family lists the snapshots that stand on one of these images, the last captured
// first. Some may not exist any more.
func (s *Store) family(ctx context.Context, images []ImageRef) []ID {
	keys := familyKeys(images)
	if len(keys) == 0 {
		return nil
	}
	notes, err := refs.ReadNotes(s.indexPath(), s.identity())
	if err != nil || notes.Appended > appendedMost {
		if _, err := s.list(ctx, true); err != nil {
			return nil
		}
		notes, _ = refs.ReadNotes(s.indexPath(), s.identity()) // without one nobody is found
	}
	var members []ID
	for _, note := range notes.All {
		for line := range strings.Lines(string(note)) {
			key, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if spelling.ID(id) && slices.Contains(keys, digest.Digest(key)) {
				members = append(members, ID(id))
			}
		}
	}
	slices.Reverse(members)
	return members
}

// openFamily opens the packs of the family, most recent first, up to the bounds
// above; the lease holds each before it is looked for. What cannot be
// read only costs reuse. Packs that came from elsewhere are none of them: a page is
// reused for its hash in the index, and there that is the word of whoever made the pack.
// So one pulled snapshot could not be what others are lost by. key is the id of the one that its pages are encrypted
// with, "" for none: others are not reused.
func (in *Ingest) openFamily(ctx context.Context, images []ImageRef, key string) []packer.Known {
	var known []packer.Known
	pages := 0
	full := func() bool { return pages >= familyPages || len(known) == familyPacks }
	seen := map[ID]bool{}
	tried := map[digest.Digest]bool{}
	for _, id := range in.st.family(ctx, images) {
		if seen[id] {
			continue
		}
		if seen[id] = true; len(seen) > familyMembers {
			break
		}
		sn, err := in.st.Get(ctx, id)
		if err != nil || sn.State != Ready || sn.Spec.Key != key || !sn.CapturedHere() {
			continue
		}
		var packs []digest.Digest
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == MediaTypePack && !tried[l.Digest] {
				tried[l.Digest] = true
				packs = append(packs, l.Digest)
			}
		}
		if in.lease.Hold(ctx, packs...) != nil {
			break
		}
		for some := range slices.Chunk(packs, openedAtOnce) {
			for _, k := range in.openKnown(ctx, some) {
				if full() {
					_ = k.File.Close()
					continue
				}
				known = append(known, k)
				pages += len(k.Index.Hashes)
			}
			if full() {
				return known
			}
		}
	}
	return known
}

// openedAtOnce bounds what is opened for nothing when the bounds are met.
const openedAtOnce = 16

// openKnown opens packs side by side, without those that cannot be read.
func (in *Ingest) openKnown(ctx context.Context, packs []digest.Digest) []packer.Known {
	opened := make([]packer.Known, len(packs))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, d := range packs {
		g.Go(func() error {
			if k, err := packer.OpenKnown(ctx, d, in.st); err == nil {
				opened[i] = k
			}
			return nil
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(opened, func(k packer.Known) bool { return k.Index == nil })
}
