package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// option is one option of the VMM, and what becomes of a VM that has it: it is
// saved and comes back, or it is refused by this name before its guest is touched.
type option struct {
	args    []string
	refused string
	sim     bool // the real VMM does not boot with it here: it needs a device or another process
}

// options that are given to a VM beside those that cocoon gives it itself. dir is
// for their files and sockets.
func options(dir string) map[string]option {
	at := func(name string) string { return filepath.Join(dir, name) }
	return map[string]option{
		"vsock":            {args: []string{"--vsock=cid=3,socket=" + at("v.sock")}},
		"rtc":              {args: []string{"--rtc"}},
		"watchdog":         {args: []string{"--watchdog"}},
		"pvpanic":          {args: []string{"--pvpanic"}},
		"balloon":          {args: []string{"--balloon=size=0,free_page_reporting=on"}},
		"rng":              {args: []string{"--rng=src=/dev/random"}},
		"rng of a file":    {args: []string{"--rng=src=" + at("guest.elf")}, refused: "rng"},
		"platform":         {args: []string{"--platform=uuid=2ea4b0d4-30c9-4f2e-8b2c-0a3f6c1d9e77,serial_number=s1,oem_strings=[a,b]"}},
		"pci segments":     {args: []string{"--platform=num_pci_segments=2", "--pci-segment=pci_segment=1,mmio32_aperture_weight=2"}},
		"rate limit group": {args: []string{"--rate-limit-group=id=g,bw_size=1000000,bw_refill_time=100"}},
		"landlock":         {args: []string{"--landlock"}},
		"landlock rules":   {args: []string{"--landlock", "--landlock-rules=path=" + dir + ",access=rw"}},
		"another disk":     {args: []string{"--disk=path=" + at("hot.raw") + ",id=hot,image_type=raw"}, refused: "disk hot"},
		"another network":  {args: []string{"--net=mac=02:00:00:00:00:09,id=hotnet"}, refused: "network hotnet"},
		"pmem":             {args: []string{"--pmem=file=" + at("hot.raw")}, refused: "pmem"},
		"virtio-fs":        {args: []string{"--fs=tag=x,socket=" + at("fs.sock")}, refused: "virtio-fs", sim: true},
		"TPM":              {args: []string{"--tpm=socket=" + at("tpm.sock")}, refused: "TPM", sim: true},
		"VFIO":             {args: []string{"--device=path=/sys/bus/pci/devices/0000:00:01.0"}, refused: "VFIO", sim: true},
		"vfio-user":        {args: []string{"--user-device=socket=" + at("user.sock")}, refused: "vfio-user", sim: true},
		"vDPA":             {args: []string{"--vdpa=path=/dev/vhost-vdpa-0,num_queues=1"}, refused: "vDPA", sim: true},
	}
}

// TestWhatIsSavedComesBack, for each option of the VMM: a VM that can be
// suspended can be woken, cloned and restored in place by the program that saved
// it; one that cannot is refused before its guest is touched.
func TestWhatIsSavedComesBack(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	for name := range options("") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, vmm)
			o := options(h.optionFiles())[name]
			if o.sim && real {
				t.Skip("the real VMM needs a device or another process for it")
			}
			h.bootWith("web", o.args)
			h.comesBack("web", o.refused)
		})
	}
}

// TestWhatIsSavedComesBackHoweverOptionsMeet draws a few options at once, those
// that name the same thing twice left out.
func TestWhatIsSavedComesBackHoweverOptionsMeet(t *testing.T) {
	t.Parallel()
	vmm, real := chsnaptest.VMM(t)
	seed := time.Now().UnixNano()
	if v := os.Getenv("COCOON_OPTIONS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseInt(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("COCOON_OPTIONS_SEED=%d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 3 {
		h := newHost(t, vmm)
		all, taken, args, refused := options(h.optionFiles()), map[string]bool{}, []string(nil), ""
		names := slices.Sorted(maps.Keys(all)) // a map's order is not the seed's
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		var drawn []string
		for _, name := range names {
			o := all[name]
			if len(drawn) == 4 || o.sim && real || clashes(o, taken) || o.refused != "" && refused != "" {
				continue
			}
			drawn, args = append(drawn, name), append(args, o.args...)
			if o.refused != "" {
				refused = o.refused
			}
		}
		t.Logf("drawn: %q", drawn)
		h.bootWith("web", args)
		h.comesBack("web", refused)
	}
}

// clashes tells whether an option of the VMM was given already, and notes it.
func clashes(o option, taken map[string]bool) bool {
	for _, a := range o.args {
		if name, _, _ := strings.Cut(a, "="); taken[name] {
			return true
		}
	}
	for _, a := range o.args {
		name, _, _ := strings.Cut(a, "=")
		taken[name] = true
	}
	return false
}

// optionFiles makes the files that options name.
func (h *host) optionFiles() string {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.work, "hot.raw"), make([]byte, 4<<20), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return h.work
}

func (h *host) bootWith(name string, args []string) {
	h.t.Helper()
	line := []string{"vm", "create", name, "--kernel", "guest.elf", "--cmdline", "fill=8", "--disk", "disk.raw", "--memory", "64M", "--start"}
	for _, a := range args {
		line = append(line, "--ch-arg="+a)
	}
	h.must(line...)
	h.counts(name)
}

// comesBack holds a running VM to the rule.
func (h *host) comesBack(name, refused string) {
	h.t.Helper()
	if refused != "" {
		for _, verb := range [][]string{{"vm", "suspend", name}, {"snapshot", "create", name, "never"}, {"snapshot", "create", name, "never", "--dry-run"}} {
			h.refuses(6, refused, verb...)
		}
		h.state(name, "running")
		h.counts(name)
		h.noSnapshots()
		h.clean()
		return
	}
	h.must("vm", "suspend", name)
	last := h.tick(name)
	h.must("vm", "start", name)
	h.goesOn(name, last)
	h.must("snapshot", "create", name, "saved")
	h.must("snapshot", "check", "saved")
	h.must("vm", "create", "clone", "--from-snapshot", "saved", "--network", "none")
	h.counts("clone")
	h.must("vm", "stop", "clone", "--timeout", "1s")
	h.must("vm", "start", "clone") // a cold boot beside the one that was saved
	h.counts("clone")
	h.must("vm", "restore", name, "saved")
	h.counts(name)
	h.clean("saved")
}

// refuses holds a command to an exit code and to what it names.
func (h *host) refuses(code int, names string, args ...string) {
	h.t.Helper()
	c, _, stderr := h.command(args)
	_ = c.Run()
	if got := c.ProcessState.ExitCode(); got != code || !strings.Contains(stderr.String(), names) {
		h.t.Errorf("cocoon %s: exit code %d, want %d naming %q: %s", strings.Join(args, " "), got, code, names, stderr)
	}
}

// TestAVMMThatWasKilledLeavesNoSocketInTheWay of the next: of a vsock device, the
// VMM never removes it.
func TestAVMMThatWasKilledLeavesNoSocketInTheWay(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.bootWith("web", options(h.optionFiles())["vsock"].args)
	h.must("snapshot", "create", "web", "saved")
	h.must("vm", "create", "clone", "--from-snapshot", "saved")
	for name, path := range map[string]string{"web": filepath.Join(h.work, "v.sock"), "clone": filepath.Join(h.run, h.vm("clone").ID, "vsock.sock")} {
		if said := h.must("vm", "inspect", name); !strings.Contains(said, `"vsockSocket": "`+path+`"`) {
			t.Errorf("the socket of %s is not %s: %s", name, path, said)
		}
		h.endVMM(name)
		h.must("vm", "start", name)
		h.counts(name)
	}
	h.must("vm", "suspend", "web")
	h.must("vm", "start", "--cold", "web")
	h.counts("web")
}

// endVMM kills the VMM of a VM and waits until the kernel has it no more.
func (h *host) endVMM(name string) {
	h.t.Helper()
	pid := h.vm(name).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); h.vm(name).State != "error"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("VM %s is %s", name, h.vm(name).State)
		}
	}
}

// TestWhatAVMMWasToldSinceIsSavedOrNamed: a disk that was grown is saved as it
// is; one that was added, or taken away, is named before the guest is touched.
func TestWhatAVMMWasToldSinceIsSavedOrNamed(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm, "COCOON_VM_LANDLOCK=off") // one that is confined is told of nothing since
	hot := filepath.Join(h.optionFiles(), "hot.raw")
	h.must("vm", "create", "web", "--kernel", "guest.elf", "--cmdline", "fill=8", "--disk", "disk.raw", "--disk", "hot.raw", "--memory", "64M", "--start")
	h.counts("web")
	h.api("web", "vm.resize-disk", `{"id":"_disk1","desired_size":33554432}`)
	h.comesBack("web", "")
	var saved []struct{ DiskDetails []struct{ Bytes int64 } }
	if err := json.Unmarshal([]byte(h.must("snapshot", "inspect", "saved")), &saved); err != nil || saved[0].DiskDetails[1].Bytes != 32<<20 {
		t.Errorf("the grown disk was saved as %+v (%v)", saved, err)
	}
	h.must("vm", "rm", "-f", "clone")
	h.must("snapshot", "rm", "saved")

	h.api("web", "vm.add-disk", `{"path":"`+hot+`","id":"hot","image_type":"Raw"}`)
	h.comesBack("web", "disk hot ("+hot+")")
	h.refuses(6, "remove-device hot", "vm", "restore", "web", h.other("web"), "--from-other")
	h.api("web", "vm.remove-device", `{"id":"hot"}`)
	h.must("snapshot", "create", "web", "again")
	h.api("web", "vm.remove-device", `{"id":"_disk1"}`)
	for _, verb := range [][]string{{"vm", "suspend", "web"}, {"snapshot", "create", "web", "never"}} {
		h.refuses(6, "disk _disk1: it was removed", verb...)
	}
	h.counts("web")
}

// other makes a snapshot of the disks of a VM as they are, by a VM beside it.
func (h *host) other(name string) string {
	h.t.Helper()
	h.must("vm", "create", "other", "--kernel", "guest.elf", "--cmdline", "fill=8", "--disk", "disk.raw", "--memory", "64M", "--start")
	h.counts("other")
	defer h.must("vm", "rm", "-f", "other")
	return h.must("snapshot", "create", "other", "of-another")
}

// api makes a call to the VMM of a VM.
func (h *host) api(name, call, body string) {
	h.t.Helper()
	var rows []struct{ APISocket string }
	if err := json.Unmarshal([]byte(h.must("vm", "inspect", name)), &rows); err != nil {
		h.t.Fatal(err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", rows[0].APISocket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPut, "http://vmm/api/v1/"+call, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		h.t.Fatalf("%s: %s", call, answer)
	}
}
