package index

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

const (
	// FamilyMembers bounds the snapshots of a family that are looked at.
	FamilyMembers = 16
	// appendedMost is what may be appended to the index until it is made anew: some
	// 10,000 publishes without a listing, bytes.
	appendedMost = 2 << 20
)

// familyKeys are the images that make a family: the disks, or what is booted
// where no disk is an image.
func familyKeys(images []document.ImageRef) []digest.Digest {
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

// Published notes to which families a snapshot belongs; best effort. An index that is
// missing is made whole by Family.
func (x *Index) Published(sn *document.Snapshot) {
	if lines := familyLines(nil, familyKeys(sn.Spec.Images), sn.ID); len(lines) > 0 {
		_ = refs.Append(x.path(), x.identity(), lines)
	}
}

// A note of families has lines: the digest of an image, the id of a snapshot.
func familyLines(b []byte, keys []digest.Digest, id layout.ID) []byte {
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
			if members[key]++; members[key] <= FamilyMembers {
				lines = append(lines, familyLines(nil, []digest.Digest{key}, all[i].Summary.ID))
			}
		}
	}
	slices.Reverse(lines)
	return bytes.Join(lines, nil)
}

// Family lists the snapshots that stand on one of these images, the last captured
// first. Some may not exist any more.
func (x *Index) Family(ctx context.Context, images []document.ImageRef) []layout.ID {
	keys := familyKeys(images)
	if len(keys) == 0 {
		return nil
	}
	notes, err := refs.ReadNotes(x.path(), x.identity())
	if err != nil || notes.Appended > appendedMost {
		if _, err := x.list(ctx, true); err != nil {
			return nil
		}
		notes, _ = refs.ReadNotes(x.path(), x.identity()) // without one nobody is found
	}
	var members []layout.ID
	for _, note := range notes.All {
		for line := range strings.Lines(string(note)) {
			key, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if spelling.ID(id) && slices.Contains(keys, digest.Digest(key)) {
				members = append(members, layout.ID(id))
			}
		}
	}
	slices.Reverse(members)
	return members
}
