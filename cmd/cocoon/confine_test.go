package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// TestAVMMOpensNothingButItsOwn, on the real VMM: it was told of the files of its
// VM before the guest ran, in each mode, and the kernel refuses it all else, which
// is asked for by its API. What cocoon does with a VM works all the same.
func TestAVMMOpensNothingButItsOwn(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	if !real {
		t.Skip("the simulator does not confine itself")
	}
	if !vm.CanConfine() {
		t.Skipf("this kernel has version %d of Landlock", vm.LandlockVersion())
	}
	h := newHost(t, vmm)
	canary := filepath.Join(h.work, "canary.raw")
	if err := os.WriteFile(canary, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	// It ends the VM: a VMM that could not add a disk is not sound afterwards.
	confined := func(name string) {
		t.Helper()
		for _, path := range []string{canary, filepath.Join(h.root, "format")} {
			if answer := h.answer(name, http.MethodPut, "vm.add-disk", fmt.Sprintf(`{"path":%q,"image_type":"Raw"}`, path)); !strings.Contains(answer, "Permission denied") {
				t.Errorf("%s: the VMM is asked to open %s: %s", name, path, answer)
			}
		}
		h.must("vm", "stop", name, "--timeout", "1ms")
	}
	free := *h
	free.env = append(slices.Clone(h.env), "COCOON_VM_LANDLOCK=off")
	free.boot("free")
	free.api("free", "vm.add-disk", fmt.Sprintf(`{"path":%q,"image_type":"Raw"}`, canary)) // so it is Landlock
	free.must("vm", "rm", "-f", "free")
	h.boot("web")
	for _, mode := range []string{"live", "file"} {
		h.must("snapshot", "create", "web", mode, "--capture", mode)
		h.counts("web")
	}
	confined("web")
	for _, mode := range []string{"map", "stream", "copy"} {
		h.must("vm", "create", mode, "--from-snapshot", "live", "--restore-mode", mode)
		h.must("snapshot", "create", mode, "of-"+mode, "--capture", "file")
		h.must("vm", "suspend", mode)
		h.must("vm", "start", mode)
		h.must("vm", "restore", mode, "file", "--from-other")
		h.counts(mode)
		h.api(mode, "vm.reboot", "")
		h.counts(mode)
		confined(mode)
		h.must("vm", "start", mode) // cold
		h.counts(mode)
		h.must("vm", "rm", "-f", mode)
		h.must("vm", "create", mode, "--from-snapshot", "live", "--restore-mode", mode)
		confined(mode)
		h.must("vm", "rm", "-f", mode)
	}
	h.must("vm", "rm", "-f", "web")
	h.must("gc")
	if left, _ := filepath.Glob("/dev/shm/cocoon-room-*"); len(h.mine(left)) > 0 {
		t.Errorf("rooms are left: %v", left)
	}
}

// answer is what the VMM of a VM says to a call.
func (h *host) answer(name, method, call, body string) string {
	h.t.Helper()
	socket := h.vm(name).APISocket
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(h.t.Context(), method, "http://vmm/api/v1/"+call, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// mine are those of these paths that a VM of this host had.
func (h *host) mine(paths []string) (out []string) {
	for _, p := range paths {
		if _, err := os.Stat(filepath.Join(h.root, "vms", p[strings.LastIndex(p, "-")+1:])); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// TestAConfinedVMMIsSavedInFileMode: into a folder that it was told of when it
// started, where nothing is left afterwards, also by a capture that was killed.
func TestAConfinedVMMIsSavedInFileMode(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VM_LANDLOCK=auto")
	v := h.boot("web")
	rooms := func() (all []string) {
		t.Helper()
		for _, glob := range []string{"/dev/shm/cocoon-room-*-" + v.ID, filepath.Join(h.root, "vms", v.ID, "staging")} {
			found, err := filepath.Glob(glob)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
		return all
	}
	want := 2
	if !vm.CanConfine() {
		want = 0
	}
	if got := rooms(); len(got) != want {
		t.Errorf("rooms %v, want %d", got, want)
	}
	h.must("snapshot", "create", "web", "one", "--capture", "file")
	h.killedWithItsGuards("capture.saved", "snapshot", "create", "web", "never", "--capture", "file")
	h.must("gc")
	for _, room := range rooms() {
		if left, err := os.ReadDir(room); err != nil || len(left) > 0 {
			t.Errorf("%s: %d left, %v", room, len(left), err)
		}
	}
	h.counts("web")
	h.signal(v.PID, unix.SIGKILL)
	h.ended("web")
	h.must("gc")
	if got, _ := filepath.Glob("/dev/shm/cocoon-room-*-" + v.ID); len(got) > 0 {
		t.Errorf("rooms of a VM without a VMM: %v", got)
	}
	h.must("vm", "start", "web")
	h.must("vm", "rm", "-f", "web")
	if got := rooms(); len(got) > 0 {
		t.Errorf("rooms of a VM that was removed: %v", got)
	}
}

// TestLandlockIsTheHostsAffair: neither a snapshot nor a program of before decides.
func TestLandlockIsTheHostsAffair(t *testing.T) {
	t.Parallel()
	if !vm.CanConfine() {
		t.Skipf("this kernel has version %d of Landlock", vm.LandlockVersion())
	}
	h := newHost(t, chsnaptest.Build(t))
	enabled := func(name string) bool {
		t.Helper()
		return strings.Contains(h.answer(name, http.MethodGet, "vm.info", ""), `"landlock_enable":true`)
	}
	h.boot("web")
	h.must("snapshot", "create", "web", "one")
	if !enabled("web") {
		t.Error("a VM is not confined by default")
	}
	for _, mode := range []string{"map", "stream", "copy"} {
		for setting, want := range map[string]bool{"on": true, "off": false, "auto": true} {
			h.env = append(h.env, "COCOON_VM_LANDLOCK="+setting)
			h.must("vm", "create", "x", "--from-snapshot", "one", "--restore-mode", mode)
			if got := enabled("x"); got != want {
				t.Errorf("%s, vmLandlock %s: confined %v", mode, setting, got)
			}
			h.must("snapshot", "create", "x", "again", "--replace")
			h.must("vm", "rm", "-f", "x")
			h.must("vm", "create", "x", "--from-snapshot", "again", "--restore-mode", mode)
			if got := enabled("x"); got != want {
				t.Errorf("%s again, vmLandlock %s: confined %v", mode, setting, got)
			}
			h.must("vm", "rm", "-f", "x")
		}
	}
	h.env = append(h.env, "COCOON_VM_LANDLOCK=maybe")
	if said := h.fails(nil, "vm", "list"); !strings.Contains(said, "auto, on or off") {
		t.Errorf("vmLandlock maybe: %s", said)
	}
}
