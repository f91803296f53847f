package parallel

import (
	"errors"
	"sync/atomic"
	"testing"
)

func TestEachIsDoneOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		done := make([]atomic.Int32, n)
		if err := Each(n, func(i int) error { done[i].Add(1); return nil }); err != nil {
			t.Fatal(err)
		}
		for i := range done {
			if got := done[i].Load(); got != 1 {
				t.Errorf("%d of %d was done %d times", i, n, got)
			}
		}
	}
	want := errors.New("no")
	if err := Each(3, func(i int) error { return map[int]error{1: want}[i] }); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}
