package ramcache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store"
)

const ramBytes = 1 << 20

// lab is a cache and a snapshot whose RAM it is to have.
func lab(t *testing.T, most Cap) (Cache, *store.Lease, *store.Snapshot) {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := st.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lease.Release() })
	return Cache{st, most}, lease, ramOf("a")
}

func ramOf(name string) *store.Snapshot {
	return &store.Snapshot{ID: "5", Spec: store.Spec{Memory: []store.MemoryRange{{Bytes: ramBytes, Map: digest.FromString(name)}}}}
}

// filler writes a word at the end, and nothing else.
func filler(made *atomic.Int64) Filler {
	return func(_ context.Context, f *os.File, wrote func(int64)) error {
		made.Add(1)
		n, err := f.WriteAt([]byte("ram"), ramBytes-3)
		wrote(int64(n))
		return err
	}
}

func want(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b, append(make([]byte, ramBytes-3), "ram"...)) {
		t.Errorf("%s: %d bytes, %v", path, len(b), err)
	}
}

// TestOneMakesAndOthersWait: however many want it at once.
func TestOneMakesAndOthersWait(t *testing.T) {
	c, lease, sn := lab(t, Cap{})
	var made atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			path, err := c.Make(t.Context(), lease, sn, ramBytes, filler(&made))
			if err != nil {
				t.Error(err)
			}
			want(t, path)
		})
	}
	all.Wait()
	if made.Load() != 1 || !c.Has(sn) {
		t.Errorf("made %d times", made.Load())
	}
}

// TestAMakerThatFailsLeavesNothing, and one that died is made up for.
func TestAMakerThatFailsLeavesNothing(t *testing.T) {
	c, lease, sn := lab(t, Cap{})
	boom := errors.New("boom")
	_, err := c.Make(t.Context(), lease, sn, ramBytes, func(context.Context, *os.File, func(int64)) error { return boom })
	if left, _ := os.ReadDir(c.Store.Path("cache", "memory")); !errors.Is(err, boom) || len(left) != 0 {
		t.Errorf("%v, left %v", err, left)
	}
	path := Path(c.Store, Key(sn))
	if err := os.WriteFile(unfinished(path), bytes.Repeat([]byte("old"), ramBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if making, err := c.Making(sn); making || err != nil {
		t.Errorf("a dead maker makes: %v, %v", making, err)
	}
	var made atomic.Int64
	if _, err := c.Make(t.Context(), lease, sn, ramBytes, filler(&made)); err != nil {
		t.Fatal(err)
	}
	want(t, path)
	if _, err := os.Stat(unfinished(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
}

// TestWhatIsMadeIsHeld: others go for it, it stays above any cap.
func TestWhatIsMadeIsHeld(t *testing.T) {
	c, lease, sn := lab(t, AtMost(0))
	old := Path(c.Store, Key(ramOf("old")))
	if err := os.WriteFile(old, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if room, err := c.Room(sn); err != nil || room.Cached != 8192 {
		t.Errorf("room %+v, %v", room, err)
	}
	if room, err := c.Room(ramOf("old")); err != nil || room.Cached != 0 {
		t.Errorf("what is going to be used gives way: %+v, %v", room, err)
	}
	var made atomic.Int64
	path, err := c.Make(t.Context(), lease, sn, ramBytes, filler(&made))
	if err != nil {
		t.Fatal(err)
	}
	want(t, path)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nobody uses is still there: %v", err)
	}
}
