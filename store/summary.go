package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Summary is one line of `snapshot list`, with the keys of its JSON.
type Summary struct {
	ID          ID                `json:"id"`
	Name        string            `json:"name"`
	VM          VMRef             `json:"vm"`
	Created     time.Time         `json:"created"`
	Description string            `json:"description"`
	Labels      map[string]string `json:"labels"`
	Expires     *time.Time        `json:"expires"`
	Protected   bool              `json:"protected"`
	State       State             `json:"state"` // ready, quarantined, damaged
	Hypervisor  Hypervisor        `json:"hypervisor"`
	CPUs        int               `json:"cpus"`
	Memory      MemorySummary     `json:"memory"`
	Disks       []DiskSummary     `json:"disks"`
	Size        Size              `json:"size"`
	Parent      ID                `json:"parent"`
	Capture     CaptureSummary    `json:"capture"`
	Key         string            `json:"key,omitempty"` // id of the key it is encrypted with

	encoded string
}

// Encoded is the JSON of an unchanged answer of Summaries, where it need not be
// made again; else "".
func (s *Summary) Encoded() string { return s.encoded }

// MemorySummary counts guest RAM, bytes, and what of it is zero; 0 also where its
// page maps cannot be read.
type MemorySummary struct {
	Bytes     int64 `json:"bytes"`
	ZeroBytes int64 `json:"zeroBytes"`
}

// CaptureSummary is Capture as it can be believed.
type CaptureSummary struct {
	Mode        string  `json:"mode"`
	PauseMs     float64 `json:"pauseMs"`
	TotalMs     Ms      `json:"totalMs"`
	PagesNew    uint64  `json:"pagesNew"`
	PagesReused uint64  `json:"pagesReused"`
	PagesZero   uint64  `json:"pagesZero"`
}

// Ms is a time in milliseconds. UnknownMs is null in JSON.
type Ms float64

// UnknownMs is of a snapshot that says nothing that can be.
const UnknownMs Ms = -1

// longestMs is a capture of ten years. Imports of former programs counted from no
// time at all, and say 292 years.
const longestMs = 10 * 365 * 24 * 3600 * 1000

func knownMs(ms float64) Ms {
	if ms < 0 || ms > longestMs {
		return UnknownMs
	}
	return Ms(ms)
}

// MarshalJSON makes null of what is not known.
func (m Ms) MarshalJSON() ([]byte, error) {
	if m < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(float64(m))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Ms) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*m = UnknownMs
		return nil
	}
	return json.Unmarshal(text, (*float64)(m))
}

// DiskSummary is one disk in a Summary.
type DiskSummary struct {
	Serial string `json:"serial"`
	Bytes  int64  `json:"bytes"`
}

// Size of a snapshot, bytes: virtual is RAM and disks as the guest sees them,
// stored all its blobs, unique those that no other snapshot names.
type Size struct {
	Virtual int64 `json:"virtual"`
	Stored  int64 `json:"stored"`
	Unique  int64 `json:"unique"`
}

// Summaries lists every snapshot, oldest first. It reads the index (index.go) and
// only those snapshots of which the index says nothing that is of today.
func (s *Store) Summaries(ctx context.Context) ([]Summary, error) {
	all, err := s.list(ctx, false)
	if err != nil {
		return nil, err
	}
	return oldestFirst(all), nil
}

// oldestFirst sorts by numbers, for a Summary is large; what was made at once
// stays sorted by id.
func oldestFirst(all []cached) []Summary {
	out := make([]Summary, len(all))
	for i, at := range byAge(all) {
		out[i] = all[at].Summary
	}
	return out
}

func byAge(all []cached) []int {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return all[a].Summary.Created.Compare(all[b].Summary.Created) })
	return order
}

func (s *Store) summarise(ctx context.Context, id ID) (cached, error) {
	sn, err := s.Get(ctx, id)
	if errors.Is(err, failure.Damaged) || errors.Is(err, failure.Incompatible) {
		sn, err = s.remains(ctx, id), nil
	}
	if err != nil {
		return cached{}, err
	}
	sp, m := &sn.Spec, &sn.Meta
	sum := Summary{
		ID: id, Name: m.Name, VM: sp.VM, Created: sp.Created.UTC(), Description: m.Description, Labels: m.Labels,
		Expires: m.Expires, Protected: m.Protected, State: sn.State, Hypervisor: sp.Hypervisor, CPUs: sp.CPUs,
		Disks: []DiskSummary{}, Parent: sp.Parent, Capture: summarised(sp.Capture),
		Key: sp.Key, Size: Size{Stored: sn.StoredBytes},
	}
	if sum.Labels == nil {
		sum.Labels = map[string]string{}
	}
	for _, r := range sp.Memory {
		sum.Memory.Bytes += int64(r.Bytes)
	}
	sum.Size.Virtual = sum.Memory.Bytes
	for _, d := range sp.Disks {
		sum.Disks = append(sum.Disks, DiskSummary{d.Serial.String(), d.Bytes})
		sum.Size.Virtual += d.Bytes
	}
	c := cached{families: familyKeys(sp.Images)}
	sum.Memory.ZeroBytes, c.whole = s.zeroRAM(ctx, sn)
	c.whole = c.whole && sn.State != Damaged
	c.Summary = sum
	if sn.Manifest.Config.Digest == "" { // it cannot be read
		return c, nil
	}
	for _, d := range append([]Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
		c.blobs = c.blobs.with(d)
	}
	return c, nil
}

// remains is what can still be read of a damaged snapshot: each of its parts has
// something to tell without the others.
func (s *Store) remains(ctx context.Context, id ID) *Snapshot {
	sn := &Snapshot{ID: id, Dir: s.Path("snapshots", string(id))}
	if b, err := document.ManifestFile.Read(sn.Dir + "/manifest.json"); err != nil || sn.ReadManifest(b) != nil {
		sn.Manifest = ocispec.Manifest{}
	} else if s.readSpec(ctx, sn) != nil {
		sn.Spec = Spec{}
	}
	if m, err := readMeta(sn.Dir); err == nil {
		sn.Meta = m
	}
	sn.State = Damaged
	return sn
}

func summarised(c Capture) CaptureSummary {
	return CaptureSummary{c.Mode, c.PauseMs, knownMs(c.TotalMs), c.PagesNew, c.PagesReused, c.PagesZero}
}

// zeroRAM asks the page maps of RAM: what a capture counts are zero pages of disks
// too. Without the key, or where they are damaged, they are not whole; a list is not
// where that is told.
func (s *Store) zeroRAM(ctx context.Context, sn *Snapshot) (bytes int64, whole bool) {
	for _, r := range sn.Spec.Memory {
		m, err := contents.Of(s, sn).Map(ctx, r.Map)
		if err != nil {
			return 0, false
		}
		zero, _ := m.Stat()
		bytes += int64(zero) * pack.PageSize
	}
	return bytes, true
}

// countUnique counts anew what only one snapshot names; who has another count than
// before has no row any more.
func countUnique(all []cached) {
	holders := map[string]int{}
	for i := range all {
		all[i].blobs.each(func(digest string, _ int64) { holders[digest]++ })
	}
	for i := range all {
		c, unique := &all[i], int64(0)
		c.blobs.each(func(digest string, bytes int64) {
			if holders[digest] == 1 {
				unique += bytes
			}
		})
		if unique != c.Summary.Size.Unique {
			c.Summary.Size.Unique, c.Summary.encoded, c.row = unique, "", ""
		}
	}
}

// treeBytes sums what the files below path occupy.
func treeBytes(path string) int64 {
	var sum int64
	_ = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil && syscall.Lstat(p, &st) == nil && !d.IsDir() {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

// InfoBytes is what a file that was looked at occupies on disk.
func InfoBytes(fi os.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// FileBytes is what one file or tree occupies on disk.
func FileBytes(path string) int64 { return treeBytes(path) }
