package policy

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)

// drawSnapshots makes up to 40 snapshots of three VMs over about two years,
// crowded enough that buckets, ties and shared blobs occur.
func drawSnapshots(t *rapid.T) []Snapshot {
	n := rapid.IntRange(0, 40).Draw(t, "count")
	out := make([]Snapshot, n)
	for i := range out {
		vm := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "vm")
		hours := rapid.OneOf(rapid.IntRange(-30, 60), rapid.IntRange(0, 18000)).Draw(t, "hours ago")
		out[i] = Snapshot{
			ID: fmt.Sprintf("s%02d", i), VM: vm, VMName: "vm " + vm,
			Created:   noon.Add(-time.Duration(hours) * time.Hour),
			Protected: rapid.IntRange(0, 5).Draw(t, "protected") == 0,
			Damaged:   rapid.IntRange(0, 9).Draw(t, "damaged") == 0,
			Foreign:   rapid.IntRange(0, 3).Draw(t, "foreign") == 0,
			Labels:    map[string]string{"tier": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "label")},
		}
		if rapid.IntRange(0, 3).Draw(t, "has expiry") == 0 {
			at := noon.Add(time.Duration(rapid.IntRange(-50, 50).Draw(t, "expires in")) * time.Hour)
			out[i].Expires = &at
		}
		for range rapid.IntRange(0, 4).Draw(t, "blobs") {
			k := rapid.IntRange(0, 12).Draw(t, "blob")
			out[i].Blobs = append(out[i].Blobs, Blob{fmt.Sprint(k), int64(k * 10)})
		}
	}
	return out
}

// drawKeep makes keep rules without caps; at least one of them selects.
func drawKeep(t *rapid.T) Rules {
	n := func(name string) int { return rapid.IntRange(0, 4).Draw(t, name) }
	r := Rules{
		Last: n("last"), Hourly: n("hourly"), Daily: n("daily"), Weekly: n("weekly"), Monthly: n("monthly"), Yearly: n("yearly"),
		Within:  time.Duration(rapid.IntRange(0, 200).Draw(t, "within")) * time.Hour,
		GroupBy: rapid.SampledFrom([]Group{{}, {All: true}, {Label: "tier"}}).Draw(t, "group"),
	}
	if rapid.Bool().Draw(t, "keep label") {
		r.Labels = []Label{{Key: "tier", Value: "x"}}
	}
	if !r.Selects() {
		r.Last = 1
	}
	return r
}

func drawRules(t *rapid.T) Rules {
	r := drawKeep(t)
	r.MaxPerVM = rapid.IntRange(0, 5).Draw(t, "max")
	r.MaxBytes = int64(rapid.IntRange(0, 700).Draw(t, "bytes"))
	return r
}

func kept(r Result) map[string]bool {
	ids := map[string]bool{}
	for _, d := range r.Decisions {
		if d.Keep {
			ids[d.Snapshot.ID] = true
		}
	}
	return ids
}

func expired(s Snapshot) bool { return s.Expires != nil && !s.Expires.After(noon) }

func TestEveryDecisionHasAReasonAndNoSnapshotIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawSnapshots(t)
		seen := map[string]bool{}
		for _, d := range Decide(all, drawRules(t), noon).Decisions {
			if len(d.Reasons) == 0 {
				t.Fatalf("%s: no reason", d.Snapshot.ID)
			}
			seen[d.Snapshot.ID] = true
		}
		if len(seen) != len(all) {
			t.Fatalf("%d decisions about %d snapshots", len(seen), len(all))
		}
	})
}

func TestProtectedDamagedAndFutureStayAndExpiredGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, d := range Decide(drawSnapshots(t), drawRules(t), noon).Decisions {
			s := d.Snapshot
			if (s.Protected || s.Damaged) && !d.Keep {
				t.Fatalf("%s goes: %v", s.ID, d.Reasons)
			}
			if s.Created.After(noon) && !expired(s) && !d.Keep {
				t.Fatalf("%s is from the future and goes: %v", s.ID, d.Reasons)
			}
			if expired(s) && !s.Protected && !s.Damaged && d.Keep {
				t.Fatalf("%s has expired and stays: %v", s.ID, d.Reasons)
			}
		}
	})
}

func TestKeepLastKeepsExactlyThatMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := slices.DeleteFunc(drawSnapshots(t), func(s Snapshot) bool { return s.Protected || s.Damaged || expired(s) || s.Created.After(noon) })
		n := rapid.IntRange(1, 50).Draw(t, "n")
		got := len(kept(Decide(all, Rules{Last: n, GroupBy: Group{All: true}}, noon)))
		if got != min(n, len(all)) {
			t.Fatalf("keep-last %d of %d keeps %d", n, len(all), got)
		}
	})
}

func TestARuleThatIsAddedNeverRemovesMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, fewer, other := drawSnapshots(t), drawKeep(t), drawKeep(t)
		more := fewer
		more.Last += other.Last
		more.Hourly += other.Hourly
		more.Daily += other.Daily
		more.Weekly += other.Weekly
		more.Monthly += other.Monthly
		more.Yearly += other.Yearly
		more.Within += other.Within
		more.Labels = append(slices.Clone(fewer.Labels), other.Labels...)
		before, after := kept(Decide(all, fewer, noon)), kept(Decide(all, more, noon))
		for id := range before {
			if !after[id] {
				t.Fatalf("%s stays under %+v and goes under %+v", id, fewer, more)
			}
		}
	})
}

// TestWhatComesFromElsewhereTakesNothingOfOurs: whatever it says of its VM and its
// time, by VM our own are decided as if it were not there; and for space none of
// them goes before all of it that may go.
func TestWhatComesFromElsewhereTakesNothingOfOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, rules := drawSnapshots(t), drawKeep(t)
		rules.GroupBy, rules.MaxPerVM = Group{}, rapid.IntRange(0, 5).Draw(t, "max")
		ours := slices.DeleteFunc(slices.Clone(all), func(s Snapshot) bool { return s.Foreign })
		alone := kept(Decide(ours, rules, noon))
		beside := kept(Decide(all, rules, noon))
		for _, s := range ours {
			if alone[s.ID] != beside[s.ID] {
				t.Fatalf("%s stays %v alone, %v beside what came from elsewhere", s.ID, alone[s.ID], beside[s.ID])
			}
		}
		rules.MaxBytes = int64(rapid.IntRange(1, 700).Draw(t, "bytes"))
		r := Decide(all, rules, noon)
		var left []*Decision
		ids := kept(r)
		for i := range r.Decisions {
			left = append(left, &r.Decisions[i])
		}
		for _, d := range leastValuable(left) {
			if d.Snapshot.Foreign {
				delete(ids, d.Snapshot.ID)
			}
		}
		for _, s := range ours {
			with := maps.Clone(ids)
			if with[s.ID] = true; alone[s.ID] && !ids[s.ID] && bytesOf(all, with) <= rules.MaxBytes {
				t.Fatalf("%s goes for space that what came from elsewhere has", s.ID)
			}
		}
	})
}

func TestOrderOfTheInputDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, rules := drawSnapshots(t), drawRules(t)
		want := Decide(all, rules, noon)
		shuffled := slices.Clone(all)
		rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))).Shuffle(len(all), func(i, j int) {
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		})
		if diff := cmp.Diff(want, Decide(shuffled, rules, noon), cmpopts.IgnoreUnexported(Decision{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestTheCapPerVMHoldsAndTakesTheOldest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, n := drawSnapshots(t), rapid.IntRange(1, 5).Draw(t, "n")
		oldest := map[string]time.Time{}
		count := map[string]int{}
		decisions := Decide(all, Rules{MaxPerVM: n}, noon).Decisions
		for _, d := range decisions {
			if vm := d.Snapshot.vm(); d.free() {
				count[vm]++
				if at, ok := oldest[vm]; !ok || d.Snapshot.Created.Before(at) {
					oldest[vm] = d.Snapshot.Created
				}
			}
		}
		for _, d := range decisions {
			vm := d.Snapshot.vm()
			if count[vm] > n || (!d.Keep && !expired(d.Snapshot) && (count[vm] < n || d.Snapshot.Created.After(oldest[vm]))) {
				t.Fatalf("%s of %s: %v; %d stay of at most %d", d.Snapshot.ID, vm, d.Reasons, count[vm], n)
			}
		}
	})
}

// bytesOf sums the distinct blobs of the snapshots whose ids are given.
func bytesOf(all []Snapshot, ids map[string]bool) int64 {
	blobs := map[string]int64{}
	for _, s := range all {
		if ids[s.ID] {
			for _, b := range s.Blobs {
				blobs[b.Digest] = b.Bytes
			}
		}
	}
	var sum int64
	for _, n := range blobs {
		sum += n
	}
	return sum
}

func TestTheCapOnBytesHoldsAndTakesNothingInVain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, limit := drawSnapshots(t), int64(rapid.IntRange(1, 700).Draw(t, "bytes"))
		before := kept(Decide(all, Rules{}, noon))
		got := Decide(all, Rules{MaxBytes: limit}, noon)
		ids := kept(got)
		if sum := bytesOf(all, ids); sum != got.Bytes {
			t.Fatalf("%d bytes stay, the answer says %d", sum, got.Bytes)
		}
		for _, d := range got.Decisions {
			if d.Keep || !before[d.Snapshot.ID] {
				continue
			}
			back := maps.Clone(ids)
			back[d.Snapshot.ID] = true
			if sum := bytesOf(all, back); sum <= limit || sum == got.Bytes {
				t.Fatalf("%s went in vain: with it %d bytes stay, without %d, of %d", d.Snapshot.ID, sum, got.Bytes, limit)
			}
		}
		if got.Bytes > limit {
			mustStay(t, got)
		}
	})
}

// mustStay: where the cap is missed, all that is left is out of its reach or
// shares every byte with what is.
func mustStay(t *rapid.T, r Result) {
	var all []*Decision
	for i := range r.Decisions {
		all = append(all, &r.Decisions[i])
	}
	s := stored{holders: map[string]int{}}
	for _, d := range all {
		if d.Keep {
			s.add(d.Snapshot)
		}
	}
	for _, d := range leastValuable(all) {
		before := s.bytes
		if s.drop(d.Snapshot); s.bytes < before {
			t.Fatalf("%d bytes stay, and %s could have gone", before, d.Snapshot.ID)
		}
	}
}
