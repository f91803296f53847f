package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// TestANetworkThatCannotBeUndone: a plugin that never undoes anything, as that of
// DHCP without its daemon, leaves a record that each gc tries again. The report is
// printed all the same and names it, and it can be given up.
func TestANetworkThatCannotBeUndone(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	h := newNetHost(t, chsnaptest.Build(t), networktest.Bridge{Name: "stuck", Subnet: "10.98.0.0/16", More: []map[string]any{{"type": "stuck"}}})
	networktest.WritePlugin(t, filepath.Join(h.bin, "stuck"), `echo '{"code":100,"msg":"no daemon"}'; exit 1`)
	create := []string{"vm", "create", "x", "--kernel", "guest.elf", "--memory", "64M", "--network", "stuck"}
	h.host.fails(nil, create...)
	// The bridge before it can be undone, and the rollback is content with that; a
	// creation that dies before is left to gc.
	h.killed("network.claimed", create...)
	h.must("vm", "create", "y", "--kernel", "guest.elf", "--memory", "64M")
	h.must("vm", "rm", "y")

	for range 2 {
		rep, code, said := h.collected("gc")
		if code != 1 || len(rep.Failed) != 1 || rep.Failed[0].Kind != "network" || !strings.Contains(rep.Failed[0].Reason, "no daemon") {
			t.Fatalf("gc ends with %d: %+v\n%s", code, rep, said)
		}
		if !strings.Contains(said, "hint: ") || !strings.Contains(said, "--forget-network "+rep.Failed[0].ID) {
			t.Errorf("no way out is named: %s", said)
		}
	}
	rep, _, _ := h.collected("gc")
	if rep, code, said := h.collected("gc", "--forget-network", rep.Failed[0].ID); code != 0 || len(rep.Failed) > 0 || len(rep.Removed) != 1 {
		t.Fatalf("gc --forget-network ends with %d: %+v\n%s", code, rep, said)
	}
	h.clean()
}

// TestAVMIsRemovedThoughItsNetworkCannotBeUndone, when that is asked for.
func TestAVMIsRemovedThoughItsNetworkCannotBeUndone(t *testing.T) {
	t.Parallel()
	if !networktest.OnItsOwn(t) {
		return
	}
	h := newNetHost(t, chsnaptest.Build(t), networktest.Bridge{Name: "sticks", Subnet: "10.99.0.0/16", More: []map[string]any{{"type": "sticks"}}})
	plugin := filepath.Join(h.bin, "sticks")
	networktest.WritePlugin(t, plugin, `[ -e "$0.stuck" ] && { echo '{"code":100,"msg":"out of luck"}'; exit 1; }
sed 's/.*"prevResult":\(.*\),"type".*/\1/'`)
	h.must("vm", "create", "x", "--kernel", "guest.elf", "--memory", "64M", "--network", "sticks")
	if err := os.WriteFile(plugin+".stuck", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.refused(1, "out of luck", "repeat the command", "vm", "rm", "x")
	h.must("vm", "rm", "x", "--forget-network")
	h.clean()
}

// collected runs a gc that may fail and answers its report.
func (h *netHost) collected(args ...string) (rep gc.Report, code int, stderr string) {
	h.t.Helper()
	c, out, errOut := h.command(append(args, "--format", "json"))
	if err := c.Run(); err != nil {
		if _, exited := err.(*exec.ExitError); !exited {
			h.t.Fatal(err)
		}
	}
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		h.t.Fatalf("cocoon %v prints no report: %v: %s", args, err, errOut)
	}
	return rep, c.ProcessState.ExitCode(), errOut.String()
}
