package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Skipf("no mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// readOnlyView opens a store once more, where it cannot be written.
func readOnlyView(t *testing.T, s *Store) *Store {
	t.Helper()
	view := t.TempDir()
	mount(t, s.Root(), view, "", unix.MS_BIND, "")
	if err := unix.Mount("", view, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro, err := Open(t.Context(), view, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ro
}

// keepsOut holds that a collector is told that readers are there, and comes in when
// they are gone.
func keepsOut(t *testing.T, s *Store, l *Lease) {
	t.Helper()
	if _, err := s.Maintain(t.Context(), 0, "gc"); !errors.Is(err, failure.Busy) || !strings.Contains(err.Error(), "read snapshots") {
		t.Errorf("a collector beside a reader: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	m, err := s.Maintain(t.Context(), 0, "gc")
	if err != nil {
		t.Fatalf("a collector after the reader: %v", err)
	}
	if err := m.End(); err != nil {
		t.Error(err)
	}
}

func TestWhoReadsAReadOnlyStoreKeepsTheCollectorOut(t *testing.T) {
	for name, collected := range map[string]bool{"that was collected": true, "that never was": false} {
		t.Run(name, func(t *testing.T) {
			s := openWith(t, filepath.Join(t.TempDir(), "root"), nil)
			sn := mustPublish(t, s, "first", image(1, 30))
			if collected {
				m, err := s.Maintain(t.Context(), 0, "gc")
				if err := errors.Join(err, m.End()); err != nil {
					t.Fatal(err)
				}
			}
			ro := readOnlyView(t, s)
			l, err := ro.LeaseToRead(t.Context(), "export")
			if err != nil {
				t.Fatal(err)
			}
			other, err := ro.LeaseToRead(t.Context(), "another export")
			if err != nil {
				t.Fatalf("two readers: %v", err)
			}
			if err := errors.Join(other.HoldSnapshot(t.Context(), sn.ID), other.Release()); err != nil {
				t.Error(err)
			}
			if got, err := l.HoldEdges(t.Context(), sn.ID); err != nil || got.ID != sn.ID {
				t.Errorf("%+v, %v", got, err)
			}
			if collected {
				if err := s.Remove(t.Context(), sn.ID, RemoveOptions{}); err != nil {
					t.Error(err) // by who can write; the blobs stay
				}
				keepsOut(t, s, l)
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.at.Exclusive(ctx, func() error { return nil }); !errors.Is(err, context.Canceled) {
				t.Errorf("a window beside the reader: %v", err)
			}
			if err := l.Release(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestALeaseThatCannotGrowKeepsTheCollectorOut: the disk fills up while somebody
// reads. What the lease says stays what can be read back.
func TestALeaseThatCannotGrowKeepsTheCollectorOut(t *testing.T) {
	root := t.TempDir()
	mount(t, "tmpfs", root, "tmpfs", 0, "size=4m,mode=700")
	s := openWith(t, root, nil)
	mustPublish(t, s, "first", image(1, 30))
	m, err := s.Maintain(t.Context(), 0, "gc")
	if err := errors.Join(err, m.End()); err != nil {
		t.Fatal(err)
	}
	reader, err := s.LeaseToRead(t.Context(), "export")
	if err != nil {
		t.Fatal(err)
	}
	writer, err := s.Lease(t.Context(), "create")
	if err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(root, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	ds := make([]digest.Digest, 200) // more than a page of the lease
	for i := range ds {
		ds[i] = digest.FromBytes([]byte{byte(i)})
	}
	if err := writer.Hold(t.Context(), ds...); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("who writes: %v", err)
	}
	if err := reader.Hold(t.Context(), ds...); err != nil {
		t.Errorf("who reads: %v", err)
	}
	for _, l := range []*Lease{reader, writer} {
		if _, _, err := s.Leases().Read(l.ID(), 0); err != nil {
			t.Errorf("a lease cannot be read back: %v", err)
		}
		if b, err := os.ReadFile(s.Path("leases", l.ID())); err != nil || len(b) > 0 && b[len(b)-1] != '\n' {
			t.Errorf("half a line is left: %v", err)
		}
	}
	if err := writer.Release(); err != nil {
		t.Error(err)
	}
	second, err := s.LeaseToRead(t.Context(), "another export")
	if err != nil {
		t.Fatalf("a lease on a full disk: %v", err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
	keepsOut(t, s, reader)
	if ids, err := s.Leases().IDs(); err != nil || len(ids) > 0 {
		t.Errorf("leases left: %v, %v", ids, err)
	}
}

func TestWhoReadsWaitsForTheCollector(t *testing.T) {
	s := openWith(t, filepath.Join(t.TempDir(), "root"), nil)
	mustPublish(t, s, "first", image(1, 30))
	m, err := s.Maintain(t.Context(), 0, "gc")
	if err != nil {
		t.Fatal(err)
	}
	ro := readOnlyView(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ro.LeaseToRead(ctx, "export"); !errors.Is(err, context.Canceled) {
		t.Errorf("beside the collector: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		l, err := ro.LeaseToRead(t.Context(), "export")
		if err == nil {
			err = l.Release()
		}
		got <- err
	}()
	if err := m.End(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after the collector: %v", err)
	}
}
