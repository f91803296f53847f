package main

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestWhatIsMadeAheadSlowsNobodyElse: only the process that makes it gives way,
// not whoever stands in the same group.
func TestWhatIsMadeAheadSlowsNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHost(t, chsnaptest.Build(t))
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	before, err := unix.Getpriority(unix.PRIO_PGRP, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.must(house.MaterialiseVerb, "base")
	if after, err := unix.Getpriority(unix.PRIO_PGRP, 0); err != nil || after != before {
		t.Errorf("the priority of the group is %d, was %d (%v)", after, before, err)
	}
}
