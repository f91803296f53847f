package gc

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// BenchmarkRepack saves a guest of 128 MiB thirty times, a twentieth of its pages
// changed each time, keeps the last three snapshots, and says what gc and then
// gc --repack leave; fresh is what the three take in an empty store.
func BenchmarkRepack(b *testing.B) {
	for _, threshold := range []float64{0.5, 0.8} {
		b.Run(fmt.Sprintf("%.0f%%", 100*threshold), func(b *testing.B) { benchRepack(b, threshold) })
	}
}

func benchRepack(b *testing.B, threshold float64) {
	const bytesOfRAM, generations, kept = 128 << 20, 30, 3
	for b.Loop() {
		s, alone := open(b, filepath.Join(b.TempDir(), "root")), open(b, filepath.Join(b.TempDir(), "root"))
		ram := ramgen.New(bytesOfRAM, 1)
		var parent, freshParent *store.Snapshot
		for g := range generations {
			ram = ram.Mutate(0.05, uint64(g))
			b.StopTimer()
			parent = saveRAM(b, s, ram, parent)
			if g >= generations-kept {
				freshParent = saveRAM(b, alone, ram, freshParent)
			}
			b.StartTimer()
		}
		all, err := s.Index().Summaries(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, sn := range all[:generations-kept] {
			if err := s.Remove(b.Context(), sn.ID, store.RemoveOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		mib := func(s *store.Store) float64 { return float64(hostfacts.FileBytes(s.Path("blobs"))) / (1 << 20) }
		before := mib(s)
		collect(b, s, Options{})
		swept := mib(s)
		b.ResetTimer()
		rep := collect(b, s, Options{Repack: &Repack{Threshold: threshold}})
		b.StopTimer()
		b.ReportMetric(before, "MiB-of-30")
		b.ReportMetric(swept, "MiB-after-gc")
		b.ReportMetric(mib(s), "MiB-after-repack")
		b.ReportMetric(mib(alone), "MiB-fresh")
		b.ReportMetric(float64(len(rep.Repack.Packs)), "packs-rewritten")
		b.StartTimer()
	}
}

// saveRAM captures as cocoon does: with the bound on what a restore reads.
func saveRAM(t testing.TB, s *store.Store, ram *ramgen.Image, parent *store.Snapshot) *store.Snapshot {
	t.Helper()
	ctx := t.Context()
	l, err := s.Lease(ctx, "create")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	var before *pack.Image
	if parent != nil {
		if before, err = contents.Of(s, parent).Memory(ctx, 0); err != nil {
			t.Fatal(err)
		}
		defer before.Close()
	}
	w := in.Pages(ctx)
	iw := w.Image(uint64(ram.Bytes()), before)
	if err := iw.ReadFrom(ctx, ram, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	sn, err := commitRAM(ctx, in, "", m)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}
