package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// The family of a snapshot are the snapshots of other VMs, and of the same one,
// that stand on the same image: their pages repeat, at other addresses. The
// derived file cache/families says which they are, a line for each publish:
//
//	IMAGE-DIGEST SNAPSHOT-ID
//
// The last lines are the most recent snapshots. Lost, it is made again from the
// manifests; torn, wrong or stale lines cost reuse and nothing else: a page is
// reused when its hash stands in the checksummed index of a pack that is there
// and that the lease holds.

const (
	// familyPages bounds the pages of a family that one capture knows: 4 GiB of
	// guest RAM that is not zero, 24 MiB of our own.
	familyPages = 1 << 20
	// familyPacks bounds the files that are open for them: a VM that is captured
	// often and changes little has many small packs.
	familyPacks = 256
	// familyMembers bounds the snapshots that are looked at for them.
	familyMembers = 16
	// familiesBytes is the size from which the file is made again, shorter.
	familiesBytes = 4 << 20
)

func (s *Store) familiesPath() string { return s.Path("cache", "families") }

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

// joinFamily notes a published snapshot; best effort.
func (s *Store) joinFamily(sn *Snapshot) {
	var b bytes.Buffer
	for _, key := range familyKeys(sn.Spec.Images) {
		fmt.Fprintf(&b, "%s %s\n", key, sn.ID)
	}
	// No O_CREATE: a file that is missing is made by rebuildFamilies, whole.
	f, err := os.OpenFile(s.familiesPath(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, _ = f.Write(b.Bytes())
	_ = f.Close()
}

// family lists the most recent snapshots that stand on one of these images,
// the last published first. Some may not exist any more.
func (s *Store) family(ctx context.Context, images []ImageRef) []ID {
	keys := familyKeys(images)
	if len(keys) == 0 {
		return nil
	}
	b, err := os.ReadFile(s.familiesPath())
	if errors.Is(err, os.ErrNotExist) || len(b) > familiesBytes {
		b = s.rebuildFamilies(ctx)
	}
	var members []ID
	for line := range strings.Lines(string(b)) {
		key, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if spelling.ID(id) && slices.Contains(keys, digest.Digest(key)) {
			members = append(members, ID(id))
		}
	}
	slices.Reverse(members)
	return members
}

// rebuildFamilies makes the file from the manifests, and gives its content.
func (s *Store) rebuildFamilies(ctx context.Context) []byte {
	ids, err := s.IDs()
	if err != nil {
		return nil
	}
	all := make([]*Snapshot, len(ids))
	_ = inParallel(len(ids), func(i int) error {
		if sn, err := s.Get(ctx, ids[i]); err == nil {
			all[i] = sn
		}
		return ctx.Err()
	})
	all = slices.DeleteFunc(all, func(sn *Snapshot) bool { return sn == nil })
	slices.SortFunc(all, func(a, b *Snapshot) int { return a.Spec.Created.Compare(b.Spec.Created) })
	b := familyLines(all)
	_ = derivedDocument.Write(s.familiesPath(), b, 0o600)
	return b
}

// familyLines are the lines of the last members of each family, oldest first.
func familyLines(all []*Snapshot) []byte {
	var lines []string
	members := map[digest.Digest]int{}
	for _, sn := range slices.Backward(all) {
		for _, key := range familyKeys(sn.Spec.Images) {
			if members[key]++; members[key] <= familyMembers {
				lines = append(lines, fmt.Sprintf("%s %s\n", key, sn.ID))
			}
		}
	}
	slices.Reverse(lines)
	return []byte(strings.Join(lines, ""))
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
