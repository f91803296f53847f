package gc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/store"
)

// BenchmarkCollect collects a store of 10,000 snapshots: idle, where nothing has
// changed; beside, where a snapshot has come and a thousand blobs are nobody's.
func BenchmarkCollect(b *testing.B) {
	const snapshots, orphans = 10_000, 1000
	s := open(b, filepath.Join(b.TempDir(), "root"))
	copies(b, s, mustPublish(b, s, "first"), snapshots-1)
	collect(b, s, Options{})
	b.Run("idle", func(b *testing.B) {
		var spent time.Duration
		for b.Loop() {
			since := processorTime(b)
			collect(b, s, Options{})
			spent += processorTime(b) - since
		}
		b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
	b.Run("beside", func(b *testing.B) {
		var spent time.Duration
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			mustPublish(b, s, fmt.Sprint("more ", b.N, i))
			litter(b, s, orphans)
			b.StartTimer()
			since := processorTime(b)
			rep := collect(b, s, Options{})
			if spent += processorTime(b) - since; len(rep.Removed) != orphans {
				b.Fatalf("%d of %d removed", len(rep.Removed), orphans)
			}
		}
		b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
}

// copies lays out n more snapshots like one, each with a config of its own.
func copies(b *testing.B, s *store.Store, of *store.Snapshot, n int) {
	b.Helper()
	write := func(path string, v any) []byte {
		text, err := json.Marshal(v)
		if err := errors.Join(err, os.WriteFile(path, text, 0o600)); err != nil {
			b.Fatal(err)
		}
		return text
	}
	for i := range n {
		sp, m := of.Spec, of.Manifest
		sp.ID = store.ID(fmt.Sprintf("%032x", i+1))
		text, err := json.Marshal(sp)
		if err != nil {
			b.Fatal(err)
		}
		m.Config.Digest, m.Config.Size = digest.FromBytes(text), int64(len(text))
		dir := s.Path("snapshots", string(sp.ID))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(s.BlobPath(m.Config.Digest), text, 0o400)); err != nil {
			b.Fatal(err)
		}
		write(filepath.Join(dir, "manifest.json"), m)
		write(filepath.Join(dir, "meta.json"), store.Meta{Name: fmt.Sprint("name-", i), Labels: map[string]string{}})
	}
}

// processorTime of this process: on a busy machine it says more than a clock.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
