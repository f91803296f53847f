package guest

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseTick(t *testing.T) {
	for line, want := range map[string][2]uint32{
		"tick 0000002a 00000000":   {42, 0},
		"tick ffffffff 00000001\r": {1<<32 - 1, 1},
	} {
		ram, disk, ok := ParseTick(line)
		if !ok || ram != want[0] || disk != want[1] {
			t.Errorf("%q: %d %d %v", line, ram, disk, ok)
		}
	}
	for _, line := range []string{"", "tick", "tick 1 2", "BOOT", "tick 0000002g 00000000", "tick 0000002a"} {
		if _, _, ok := ParseTick(line); ok {
			t.Errorf("%q was read as a tick", line)
		}
	}
}

func TestParseBeat(t *testing.T) {
	ram, address, ok := ParseBeat([]byte("beat 0000002a 0a010203"))
	if !ok || ram != 42 || address != netip.AddrFrom4([4]byte{10, 1, 2, 3}) {
		t.Errorf("got %d %s %v", ram, address, ok)
	}
	for _, payload := range []string{"", "beat", "beat 0000002a", "beat 0000002a 0a0102", "beat 0000002a 0a0102030", "tick 0000002a 0a010203"} {
		if _, _, ok := ParseBeat([]byte(payload)); ok {
			t.Errorf("%q was read as a beat", payload)
		}
	}
}

func TestLastTickIgnoresATornLine(t *testing.T) {
	ram, disk, ok := LastTick([]byte("BOOT\ntick 00000001 00000001\ntick 00000002 00000002\ntick 00000003 0000"))
	if !ok || ram != 2 || disk != 2 {
		t.Errorf("got %d %d %v", ram, disk, ok)
	}
}

func TestBad(t *testing.T) {
	if got := Bad([]byte("tick 00000001 00000001\nBAD page 00000007\n")); len(got) != 1 || got[0] != "BAD page 00000007" {
		t.Errorf("got %q", got)
	}
}

// TestTheBinaryIsWhatTheSourceBuilds rebuilds the guest where the compiler is
// the one that built the checked-in file.
func TestTheBinaryIsWhatTheSourceBuilds(t *testing.T) {
	built, err := os.ReadFile("guest.elf.compiler")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", "--version").Output()
	if err != nil {
		t.Skipf("no gcc to rebuild the guest with: %v", err)
	}
	have, _, _ := strings.Cut(string(out), "\n")
	if have != strings.TrimSpace(string(built)) {
		t.Skipf("guest.elf was built by %q, here is %q: bytes would differ", strings.TrimSpace(string(built)), have)
	}
	path := filepath.Join(t.TempDir(), "guest.elf")
	if out, err := exec.Command("src/build.sh", path).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	again, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, ELF()) {
		t.Error("guest.elf is not what src builds: run src/build.sh guest.elf")
	}
}
