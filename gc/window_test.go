package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/repair"
)

// haltedAt starts a collector as a process of its own and waits until it stands
// still at its first visit of a step; the answer lets it go on, and waits for its
// end.
func haltedAt(t *testing.T, s *store.Store, step string) (goOn func() error, err error) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestKillAtEachStep$")
	c.Env = append(os.Environ(), "GC_TEST_ROOT="+s.Root(), durable.StopAt+"="+step+"#1")
	if err := c.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Process.Kill() }) // also one that stands still while the test fails
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		return nil, fmt.Errorf("the collector did not stop at %s: %w, status %#x", step, err, status)
	}
	return func() error { return errors.Join(c.Process.Signal(syscall.SIGCONT), c.Wait()) }, nil
}

// halted lets meanwhile run while a collector stands still at a step.
func halted(t *testing.T, s *store.Store, step string, meanwhile func()) {
	t.Helper()
	goOn, err := haltedAt(t, s, step)
	if err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if err := goOn(); err != nil {
		t.Fatalf("the collector failed: %v", err)
	}
}

// killedAt has a collector die at a step.
func killedAt(t *testing.T, s *store.Store, step string) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestKillAtEachStep$")
	c.Env = append(os.Environ(), "GC_TEST_ROOT="+s.Root(), durable.KillAt+"="+step)
	if err := c.Run(); err == nil || c.ProcessState.ExitCode() != -1 {
		t.Fatalf("the collector was not killed at %s: %v", step, err)
	}
}

// orphans leaves a store with the blobs of a removed snapshot; the answer is
// one of them.
func orphans(t *testing.T, s *store.Store, part string) digest.Digest {
	t.Helper()
	gone := mustPublish(t, s, part)
	if err := s.Remove(t.Context(), gone.ID, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	return gone.Spec.CHConfig
}

// TestWhatIsTakenAfterTheMarkIsKept: between the mark, which takes no lock, and
// the window that discards, anybody may come to need what the plan takes.
func TestWhatIsTakenAfterTheMarkIsKept(t *testing.T) {
	vmDir := strings.Repeat("0a", 16)
	record := func(d digest.Digest) vm.Record {
		return vm.Record{Version: 1, ID: vmDir, Name: "web", Disks: []vm.Disk{{Image: d}}}
	}
	var before *store.Lease
	for name, tc := range map[string]struct {
		prepare, take func(t *testing.T, s *store.Store, d digest.Digest)
		goes          bool
	}{
		"nobody": {take: func(*testing.T, *store.Store, digest.Digest) {}, goes: true},
		"a snapshot that reuses it": {take: func(t *testing.T, s *store.Store, d digest.Digest) {
			mustPublish(t, s, "wanted again")
		}},
		"a new lease": {take: func(t *testing.T, s *store.Store, d digest.Digest) {
			l, err := s.Lease(t.Context(), "late")
			if err := errors.Join(err, l.Hold(t.Context(), d)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Release() })
		}},
		"a lease that was read already": {
			prepare: func(t *testing.T, s *store.Store, d digest.Digest) {
				var err error
				before, err = s.Lease(t.Context(), "early")
				if err := errors.Join(err, before.Hold(t.Context(), digest.FromString("something else"))); err != nil {
					t.Fatal(err)
				}
			},
			take: func(t *testing.T, s *store.Store, d digest.Digest) {
				if err := before.Hold(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { before.Release() })
			},
		},
		"a new VM": {take: func(t *testing.T, s *store.Store, d digest.Digest) {
			if err := os.Mkdir(s.Path("vms", vmDir), 0o700); err != nil {
				t.Fatal(err)
			}
			writeJSON(t, s.Path("vms", vmDir, "record.json"), record(d))
		}},
		"a VM whose record was read already": {
			prepare: func(t *testing.T, s *store.Store, d digest.Digest) {
				if err := os.Mkdir(s.Path("vms", vmDir), 0o700); err != nil {
					t.Fatal(err)
				}
				writeJSON(t, s.Path("vms", vmDir, "record.json"), record(digest.FromString("something else")))
			},
			take: func(t *testing.T, s *store.Store, d digest.Digest) {
				b, err := json.Marshal(record(d))
				if err := errors.Join(err, durable.Document{Limit: 1 << 20}.Write(s.Path("vms", vmDir, "record.json"), b, 0o600)); err != nil {
					t.Fatal(err)
				}
			},
		},
		"a pin": {take: func(t *testing.T, s *store.Store, d digest.Digest) {
			writeJSON(t, s.Path("pins", "p.json"), map[string]any{"digests": []digest.Digest{d}})
		}},
		"an image record": {take: func(t *testing.T, s *store.Store, d digest.Digest) {
			writeJSON(t, s.Path("images", "i.json"), image.Record{ID: d, Name: "i"})
		}},
	} {
		for _, step := range []string{"gc.marked", "gc.planned"} {
			t.Run(name+" at "+step, func(t *testing.T) {
				s := open(t, filepath.Join(t.TempDir(), "root"))
				mustPublish(t, s, "kept")
				d := orphans(t, s, "wanted again")
				if tc.prepare != nil {
					tc.prepare(t, s, d)
				}
				halted(t, s, step, func() { tc.take(t, s, d) })
				if _, err := os.Stat(s.BlobPath(d)); tc.goes != errors.Is(err, os.ErrNotExist) {
					t.Errorf("the blob: %v; want it gone: %v", err, tc.goes)
				}
				if rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true}); err != nil || len(rep.Damaged) > 0 {
					t.Errorf("after gc: %+v %v", rep, err)
				}
			})
		}
	}
}

// litter makes blobs that nobody names.
func litter(t testing.TB, s *store.Store, n int) []digest.Digest {
	t.Helper()
	var out []digest.Digest
	for i := range n {
		b := fmt.Appendf(nil, "litter %d", i)
		out = append(out, digest.FromBytes(b))
		if err := os.WriteFile(s.BlobPath(out[i]), b, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestMuchIsDiscardedInSeveralWindows: others publish between two windows, and
// what they took before the second is kept by it. A run that dies there goes on
// next time.
func TestMuchIsDiscardedInSeveralWindows(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	all := litter(t, s, 3000)
	var l *store.Lease
	var left []digest.Digest
	halted(t, s, "gc.breath", func() {
		var err error
		if l, err = s.Lease(t.Context(), "late"); err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			if _, err := os.Stat(s.BlobPath(d)); err == nil {
				left = append(left, d)
			}
		}
		if err := l.Hold(t.Context(), left...); err != nil {
			t.Fatal(err)
		}
	})
	if len(left) == 0 || len(left) == len(all) {
		t.Fatalf("%d of %d victims were left after the first window", len(left), len(all))
	}
	for _, d := range left {
		if _, err := os.Stat(s.BlobPath(d)); err != nil {
			t.Fatalf("taken between two windows, and gone: %v", err)
		}
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestKillAtEachStep$")
	c.Env = append(os.Environ(), "GC_TEST_ROOT="+s.Root(), durable.KillAt+"=gc.breath")
	if err := c.Run(); err == nil || c.ProcessState.ExitCode() != -1 {
		t.Fatalf("the collector was not killed between two windows: %v", err)
	}
	rep := collect(t, s, Options{})
	if got := len(blobs(t, s)); got != 2 { // the part that is kept and its spec
		t.Errorf("%d blobs are left, want 2; the last run removed %d objects", got, len(rep.Removed))
	}
	if left, _ := os.ReadDir(s.Path("trash")); len(left) > 0 {
		t.Errorf("trash holds %v", left)
	}
}

// TestCreatesRemovalsAndCollectorsRace: whatever runs beside gc, no published
// snapshot loses a blob.
func TestCreatesRemovalsAndCollectorsRace(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	duration := 3 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var wg sync.WaitGroup
	var made, runs atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				sn, err := publish(s, fmt.Sprint("part ", (w+i)%5), fmt.Sprint("part ", i%3))
				if err != nil {
					t.Error(err)
					return
				}
				made.Add(1)
				if i%4 != 0 {
					if err := s.Remove(context.Background(), sn.ID, store.RemoveOptions{}); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for ; ctx.Err() == nil; runs.Add(1) {
			if _, err := run(context.Background(), s, Options{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	rep, err := repair.Verify(t.Context(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Damaged) > 0 {
		t.Errorf("after %d creates and %d runs of gc: %+v %v", made.Load(), runs.Load(), rep, err)
	}
	collect(t, s, Options{})
	sound(t, s)
	t.Logf("%d creates beside %d runs of gc", made.Load(), runs.Load())
}

// TestACacheFileThatIsMappedMeanwhileStays: a restore leases the key, links the
// file and lets the lease go.
func TestACacheFileThatIsMappedMeanwhileStays(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	file := s.Path("cache", "memory", digest.FromString("ram").Encoded())
	if err := os.WriteFile(file, []byte("ram"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "memory.base")
	halted(t, s, "gc.planned", func() {
		if err := os.Link(file, link); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a mapped file was taken: %v", err)
	}
}
