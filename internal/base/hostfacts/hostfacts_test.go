package hostfacts

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheProcessorIsTheKernels(t *testing.T) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	p := CPU()
	if !strings.Contains(string(b), p.Model) {
		t.Errorf("model %q is nowhere in /proc/cpuinfo", p.Model)
	}
	if strings.Contains(string(b), "\nflags") != (len(p.Flags) > 0) || slices.Contains(p.Flags, "") {
		t.Errorf("flags %q", p.Flags)
	}
}

func TestRoomIsThatOfThePath(t *testing.T) {
	dir := t.TempDir()
	free, total, err := FreeBytes(dir)
	if err != nil || free < 0 || total <= 0 || free > total {
		t.Errorf("%d of %d are free, %v", free, total, err)
	}
	if _, _, err := FreeBytes(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("of nothing: %v", err)
	}
}
