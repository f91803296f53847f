package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
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
