package index

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Summary is one line of `snapshot list`, with the keys of its JSON.
type Summary struct {
	ID          layout.ID           `json:"id"`
	Name        string              `json:"name"`
	VM          document.VMRef      `json:"vm"`
	Created     time.Time           `json:"created"`
	Description string              `json:"description"`
	Labels      map[string]string   `json:"labels"`
	Expires     *time.Time          `json:"expires"`
	Protected   bool                `json:"protected"`
	State       document.State      `json:"state"` // ready, quarantined, damaged
	Hypervisor  document.Hypervisor `json:"hypervisor"`
	CPUs        int                 `json:"cpus"`
	Memory      MemorySummary       `json:"memory"`
	Disks       []DiskSummary       `json:"disks"`
	Size        Size                `json:"size"`
	Parent      layout.ID           `json:"parent"`
	Capture     CaptureSummary      `json:"capture"`
	Key         string              `json:"key,omitempty"` // id of the key it is encrypted with

	encoded string
}

// Encoded is the JSON of an unchanged answer of Summaries, where it need not be
// made again; else "".
func (s *Summary) Encoded() string { return s.encoded }

// MemorySummary counts guest RAM, bytes, and what of it is zero: UnknownBytes where
// its page maps cannot be read.
type MemorySummary struct {
	Bytes     int64 `json:"bytes"`
	ZeroBytes Bytes `json:"zeroBytes"`
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

// Bytes is a size. UnknownBytes is null in JSON.
type Bytes int64

// UnknownBytes is of what cannot be read, for example without the key.
const UnknownBytes Bytes = -1

// MarshalJSON makes null of what is not known.
func (n Bytes) MarshalJSON() ([]byte, error) {
	if n < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(int64(n))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *Bytes) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*n = UnknownBytes
		return nil
	}
	return json.Unmarshal(text, (*int64)(n))
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

// Summaries lists every snapshot, oldest first. It reads the index and
// only those snapshots of which the index says nothing that is of today.
func (x *Index) Summaries(ctx context.Context) ([]Summary, error) {
	all, err := x.list(ctx, false)
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

// Afresh is the summary of one snapshot as it is now, without a look at the index or
// at other snapshots: it says nothing of Unique.
func (x *Index) Afresh(ctx context.Context, id layout.ID) (Summary, error) {
	c, err := x.summarise(ctx, id)
	return c.Summary, err
}

func (x *Index) summarise(ctx context.Context, id layout.ID) (cached, error) {
	read, err := x.read(ctx, id)
	if err != nil {
		return cached{}, err
	}
	sn := read.Snapshot
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
	sum.Memory.ZeroBytes = read.ZeroBytes
	c := cached{Summary: sum, families: familyKeys(sp.Images), whole: read.Whole}
	if sn.Manifest.Config.Digest == "" { // it cannot be read
		return c, nil
	}
	for _, d := range append([]document.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
		c.blobs = c.blobs.with(d)
	}
	return c, nil
}

func summarised(c document.Capture) CaptureSummary {
	return CaptureSummary{c.Mode, c.PauseMs, knownMs(c.TotalMs), c.PagesNew, c.PagesReused, c.PagesZero}
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
