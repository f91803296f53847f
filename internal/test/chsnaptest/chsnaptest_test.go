package chsnaptest

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kernelFile writes the test guest where a VMM can open it.
func kernelFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := writeKernel(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSimulatorConforms(t *testing.T) {
	Conformance(t, Build(t), kernelFile(t))
}

func TestRealVMMConforms(t *testing.T) {
	binary, err := exec.LookPath("cloud-hypervisor")
	if err != nil {
		t.Skipf("no real VMM: %v", err)
	}
	kernel := kernelFile(t)
	if err := Probe(t.Context(), binary, kernel); err != nil {
		t.Skipf("the real VMM cannot run here: %v", err)
	}
	Conformance(t, binary, kernel)
}

func TestProbeSaysWhatFails(t *testing.T) {
	sim, kernel := Build(t), kernelFile(t)
	for _, c := range []struct{ name, fail, kernel, want string }{
		{"works", "", kernel, ""},
		{"no snapshot", "vm.snapshot=fail", kernel, "injected failure"},
		{"dies", "vm.pause=die", kernel, "vm.pause"},
		{"no kernel", "", "/nonexistent", "Cannot open kernel file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("CHSIM_FAIL", c.fail)
			err := Probe(t.Context(), sim, c.kernel)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("probe failed: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("probe: %v, want %q", err, c.want)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		t.Setenv("CHSIM_FAIL", "vm.pause=hang")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := Probe(ctx, sim, kernel); err == nil {
			t.Error("a hanging VMM passed the probe")
		}
	})
}

func TestVMMObeysTheEnvironment(t *testing.T) {
	t.Setenv("COCOON_TEST_VMM", "sim")
	if binary, real := VMM(t); real || binary != Build(t) {
		t.Errorf("COCOON_TEST_VMM=sim gave %s, real %v", binary, real)
	}
}
