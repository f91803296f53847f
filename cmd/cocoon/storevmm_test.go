package main

import (
	"os"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// storeVMM is the VMM of the suites that hold, kill and fault processes of ours
// by the hundred: the simulator, since they are about the store and boot more
// guests than two processors carry. COCOON_TEST_VMM=real runs them on the real
// one; the other tests take that where it is usable.
func storeVMM(t *testing.T) string {
	t.Helper()
	if os.Getenv("COCOON_TEST_VMM") == "real" {
		vmm, _ := chsnaptest.VMM(t)
		return vmm
	}
	t.Log("VMM: simulator; COCOON_TEST_VMM=real takes the real one")
	return chsnaptest.Build(t)
}
