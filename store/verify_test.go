package store

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// countdown is a context that is cancelled when it was looked at n times.
type countdown struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func interruptedAfter(ctx context.Context, n int64) *countdown {
	ctx, cancel := context.WithCancel(ctx)
	c := &countdown{Context: ctx, cancel: cancel}
	c.left.Store(n)
	return c
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// TestAnInterruptedVerifyFindsNoDamage, wherever it is interrupted: nothing that
// is sound is called damaged or put into quarantine.
func TestAnInterruptedVerifyFindsNoDamage(t *testing.T) {
	s := openTest(t)
	id := mustPublish(t, s, "one", image(1, 30)).ID
	for n := int64(0); ; n++ { // twice each look, with quarantine and without
		s, err := Open(t.Context(), s.root, Options{}) // which remembers no page map
		if err != nil {
			t.Fatal(err)
		}
		ctx := interruptedAfter(t.Context(), n/2)
		rep, err := s.Verify(ctx, nil, VerifyOptions{ReadData: true, Quarantine: n%2 == 0})
		ctx.cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at look %d: %v", n, err)
		}
		if err == nil && len(rep.Damaged) > 0 {
			t.Fatalf("interrupted at look %d: %+v", n, rep.Damaged)
		}
		if sn, err := s.Get(t.Context(), id); err != nil || sn.Usable() != nil {
			t.Fatalf("interrupted at look %d: %v, %v", n, err, sn.Usable())
		}
		if err == nil {
			t.Logf("it looks %d times", n)
			return
		}
	}
}

// TestAFolderWithoutAManifestKeepsNoOtherFromBeingVerified: half of a backup is back.
func TestAFolderWithoutAManifestKeepsNoOtherFromBeingVerified(t *testing.T) {
	s := openTest(t)
	mustPublish(t, s, "one", image(1, 30))
	alone, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true})
	if err != nil || len(alone.Damaged) > 0 {
		t.Fatalf("%+v, %v", alone, err)
	}
	const half = ID("00000000000000000000000000000000")
	if err := os.Mkdir(s.Path("snapshots", string(half)), 0o700); err != nil {
		t.Fatal(err)
	}
	rep, err := s.Verify(t.Context(), nil, VerifyOptions{ReadData: true, Quarantine: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Damaged) != 1 || rep.Damaged[0].Object != "snapshot "+string(half) || rep.BytesRead != alone.BytesRead || len(rep.Quarantined) > 0 {
		t.Errorf("%+v, without the folder %+v", rep, alone)
	}
	if _, err := s.Verify(t.Context(), []ID{half}, VerifyOptions{}); !errors.Is(err, failure.NotFound) {
		t.Errorf("asked for by its id: %v", err)
	}
}
