package main

import (
	"slices"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
)

// TestACaptureHoldsWhatItsParentNames: the pages that it reuses must not go when
// the parent's are moved, nor when it is removed.
func TestACaptureHoldsWhatItsParentNames(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	c, _, stderr := h.command([]string{"snapshot", "create", "web", "next", "--capture", "live"}, durable.StopAt+"=migration.start")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s := &started{cmd: c, ended: make(chan struct{})}
	go func() { _ = c.Wait(); close(s.ended) }()
	if !s.stands() {
		t.Fatalf("the capture did not stop: %s", stderr)
	}
	st, err := store.Open(t.Context(), h.root, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := st.Resolve(t.Context(), "base")
	if err != nil {
		t.Fatal(err)
	}
	base, err := st.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	live, err := st.Leases().Live(t.Context())
	if err != nil || len(live) != 1 {
		t.Fatalf("leases %v, %v", live, err)
	}
	for _, d := range document.Edges(base) {
		if !slices.Contains(live[0].Digests, d) {
			t.Errorf("the capture does not hold %s, which its parent names", d)
		}
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if <-s.ended; c.ProcessState.ExitCode() != 0 {
		t.Errorf("the capture ended with %d: %s", c.ProcessState.ExitCode(), stderr)
	}
	h.clean("base", "next")
}
