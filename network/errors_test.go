package network

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func linkMAC(t testing.TB, name string) string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must0(t, err)
	return l.Attrs().HardwareAddr.String()
}

// fails holds an error against its exit code and words, and wants a remedy.
func fails(t testing.TB, err error, code int, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	if failure.Code(err) != code {
		t.Errorf("exit code %d, want %d: %v", failure.Code(err), code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if code != 2 && failure.HintOf(err) == "" {
		t.Errorf("no remedy: %v", err)
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	vm := "0123456789abcdef"
	in := Guest{MAC: "02:00:00:00:00:01", IPs: prefixes("10.0.0.5/24")}
	for want, r := range map[string]Request{
		"VM id":                  {VM: "../../etc", Network: "n"},
		"interface 16":           {VM: vm, Network: "n", Index: 16},
		"300 queue pairs":        {VM: vm, Network: "n", QueuePairs: 300},
		"name of a TAP":          {VM: vm, Network: Tap},
		"no name of a device":    {VM: vm, Network: Tap, Tap: "../x"},
		"is not the MAC":         {VM: vm, Network: "n", MAC: "01:00:00:00:00:01"},
		"are not valid":          {VM: vm, Network: "n", IPs: []netip.Addr{{}}},
		"neither":                {VM: vm, Network: "n", Identity: "new"},
		"no remembered":          {VM: vm, Network: "n", Guest: &in},
		"needs the address":      {VM: vm, Network: "n", Identity: Fresh},
		"needs a CNI network":    {VM: vm, Network: Tap, Tap: "t", Identity: Fresh, Guest: &in},
		"remembered gateway:":    {VM: vm, Network: "n", Identity: Fresh, Guest: &Guest{MAC: in.MAC, IPs: in.IPs, GatewayMAC: "x"}},
		"remembered gateways":    {VM: vm, Network: "n", Identity: Fresh, Guest: &Guest{MAC: in.MAC, IPs: in.IPs, Gateways: []netip.Addr{{}}}},
		"remembered addresses":   {VM: vm, Network: "n", Identity: Fresh, Guest: &Guest{MAC: in.MAC, IPs: []netip.Prefix{{}}}},
		`remembered: "" is not `: {VM: vm, Network: "n", Identity: Fresh, Guest: &Guest{IPs: in.IPs}},
	} {
		_, err := Host{}.Attach(t.Context(), r)
		fails(t, err, 2, want)
	}
	_, err := Host{}.Attach(t.Context(), Request{VM: vm, Network: "n"})
	fails(t, err, 2, "no folder")
	a, err := Host{}.Attach(t.Context(), Request{VM: vm})
	must0(t, err)
	if a.Network != None {
		t.Errorf("no network named: %+v", a)
	}
	must0(t, Host{}.Detach(t.Context(), *a))
	must0(t, Announce(*a))
}

func TestConflistsAndPluginsThatAreMissingOrBroken(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "whole", Subnet: "10.140.0.0/16"}, networktest.Bridge{Name: "lacks", Subnet: "10.141.0.0/16", More: []map[string]any{{"type": "no-such-plugin"}}})
	before := traces(t, h)
	_, err := h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "nowhere"})
	fails(t, err, 3, "nowhere", h.ConfDirs[0])
	if hint := failure.HintOf(err); !strings.Contains(hint, "lacks, whole") {
		t.Errorf("hint %q does not name the networks that exist", hint)
	}
	_, err = h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "lacks"})
	fails(t, err, 3, "no-such-plugin")
	broken := filepath.Join(h.ConfDirs[0], "broken.conflist")
	must0(t, os.WriteFile(broken, []byte(`{"name": "broken", "plugins": [`), 0o600))
	_, err = h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "broken"})
	fails(t, err, 2, broken)
	must0(t, h.Detach(t.Context(), *attach(t, h, Request{VM: vmID(t, 0), Network: "whole"}))) // unharmed by its neighbour
	sameTraces(t, h, before)
}

func TestAddressesThatTheNetworkCannotGive(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "range", Subnet: "10.142.0.0/30"}, networktest.Bridge{Name: "deaf", Subnet: "10.143.0.0/16"})
	deaf := filepath.Join(h.ConfDirs[0], "deaf.conflist")
	must0(t, os.WriteFile(deaf, []byte(`{"cniVersion":"1.0.0","name":"deaf","plugins":[{"type":"bridge","bridge":"br-deaf",
		"ipam":{"type":"static","addresses":[{"address":"10.143.0.9/16"}]}}]}`), 0o600))
	before := traces(t, h)
	_, err := h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "range", IPs: addrs("10.9.0.5")})
	fails(t, err, 6, "10.9.0.5")
	sameTraces(t, h, before)
	_, err = h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "deaf", MAC: "02:00:00:00:14:01", Identity: Fresh, Guest: &Guest{MAC: "02:00:00:00:14:02", IPs: prefixes("fd00::5/64")}})
	fails(t, err, 6, "fd00::5", "10.143.0.9/16")
	_, err = h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "range", MTU: 9000})
	fails(t, err, 6, "MTU 1500", "9000")
	sameTraces(t, h, before)
	attach(t, h, Request{VM: vmID(t, 1), Network: "range"})
	full := traces(t, h)
	_, err = h.Attach(t.Context(), Request{VM: vmID(t, 2), Network: "range"})
	fails(t, err, 4, "no IP addresses available")
	sameTraces(t, h, full)
	must0(t, h.Detach(t.Context(), Attachment{VM: vmID(t, 1), Network: "range", Netns: h.netnsPath(vmID(t, 1)), Ifname: "eth0", Tap: "tap0"}))
	sameTraces(t, h, before)
}

func TestPluginsThatIgnoreTheWantedAddressAreFoundOut(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "deaf2", Subnet: "10.144.0.0/16"})
	script(t, h, "deaf-ipam", `[ "$CNI_COMMAND" = DEL ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.144.0.9/16"}]}'`)
	must0(t, os.WriteFile(filepath.Join(h.ConfDirs[0], "deaf2.conflist"),
		[]byte(`{"cniVersion":"1.0.0","name":"deaf2","plugins":[{"type":"bridge","bridge":"br-deaf2","ipam":{"type":"deaf-ipam"}}]}`), 0o600))
	before := traces(t, h)
	_, err := h.Attach(t.Context(), Request{VM: vmID(t, 0), Network: "deaf2", IPs: addrs("10.144.0.5")})
	fails(t, err, 6, "wanted address 10.144.0.5", "10.144.0.9")
	sameTraces(t, h, before)
}

func TestPluginsThatFailHalfWayAreRolledBack(t *testing.T) {
	for name, body := range map[string]string{
		"fails-add":    `[ "$CNI_COMMAND" = DEL ] || { echo '{"code":100,"msg":"out of luck"}'; exit 1; }`,
		"fails-always": `[ -e "$0.first" ] && { echo out of luck >&2; exit 1; }; : > "$0.first"`, // one DEL before the ADD works
		"hangs":        `[ "$CNI_COMMAND" = DEL ] || { echo out of luck >&2; : > "$0.hung"; sleep 60; }`,
	} {
		t.Run(name, func(t *testing.T) {
			conf := networktest.Bridge{Name: "half" + name[:5], Subnet: "10.145.0.0/16", More: []map[string]any{{"type": name}}}
			h := newHost(t, conf)
			script(t, h, name, body)
			before := traces(t, h)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "hangs" {
				go cancelOn(ctx, filepath.Join(h.PluginDirs[0], name+".hung"), cancel)
			}
			_, err := h.Attach(ctx, Request{VM: vmID(t, 0), Network: conf.Name, IPs: addrs("10.145.0.7")})
			if err == nil || !strings.Contains(err.Error(), "out of luck") {
				t.Errorf("error %v, want the plugin's words", err)
			}
			sameTraces(t, h, before)

			// The bridge that the failed ADD left without a MAC does no harm.
			conf.More = nil
			networktest.WriteConflist(t, filepath.Join(h.ConfDirs[0], conf.Name+".conflist"), conf)
			a := attach(t, h, Request{VM: vmID(t, 0), Network: conf.Name, IPs: addrs("10.145.0.7")})
			must0(t, h.Detach(t.Context(), *a))
			sameTraces(t, h, before)
			must0(t, dropLink("br-"+conf.Name))
		})
	}
}

// cancelOn cancels once a file is there.
func cancelOn(ctx context.Context, path string, cancel func()) {
	for ctx.Err() == nil {
		if _, err := os.Stat(path); err == nil {
			cancel()
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNetnsOfOthersIsLeftAlone(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "foreign", Subnet: "10.146.0.0/16"})
	vm := vmID(t, 0)
	before := traces(t, h)
	path := h.netnsPath(vm)
	other := vm[:12] + strings.Repeat("f", 20) // the same first digits
	must0(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must0(t, makeNetns(path, other, ""))
	must0(t, InNetns(path, func() error { _, err := makeTap("eth0", 1500, 1); return err }))
	taken := traces(t, h)
	_, err := h.Attach(t.Context(), Request{VM: vm, Network: "foreign"})
	fails(t, err, 4, path, other)
	sameTraces(t, h, taken)
	must0(t, InNetns(path, func() error { _, err := netlink.LinkByName("eth0"); return err }))
	must0(t, dropNetns(path))
	sameTraces(t, h, before)
}

func TestTapOfTheOperator(t *testing.T) {
	needRoot(t)
	_, err := makeTap("mytap", 1500, 1)
	must0(t, err)
	t.Cleanup(func() { dropLink("mytap") })
	r := Request{VM: vmID(t, 0), Network: Tap, Tap: "mytap", MAC: "02:00:00:00:15:01", IPs: addrs("192.168.1.5")}
	a, err := Host{}.Attach(t.Context(), r)
	must0(t, err)
	if a.Netns != "" || a.Tap != "mytap" || a.MTU != 1500 || a.Request().Tap != "mytap" {
		t.Errorf("attachment %+v", a)
	}
	must0(t, Host{}.Detach(t.Context(), *a))
	f := openTap(t, "", "mytap", 1)
	_, err = Host{}.Attach(t.Context(), r)
	fails(t, err, 4, "has it open")
	f[0].Close()
	r.QueuePairs = 2
	_, err = Host{}.Attach(t.Context(), r)
	fails(t, err, 6, "multi queue is false")
	_, err = Host{}.Attach(t.Context(), Request{VM: r.VM, Network: Tap, Tap: "gone"})
	fails(t, err, 3, "gone")
	_, err = Host{}.Attach(t.Context(), Request{VM: r.VM, Network: Tap, Tap: "lo"})
	if failure.Code(err) != 2 || failure.HintOf(err) == "" {
		t.Errorf("loopback as TAP: %v", err)
	}
}

func TestUnpluggedLeadsNowhere(t *testing.T) {
	h := newHost(t)
	before := traces(t, h)
	r := Request{VM: vmID(t, 0), Network: Unplugged, MAC: "02:00:00:00:17:01", QueuePairs: 2}
	a := attach(t, h, r)
	b := attach(t, h, Request{VM: vmID(t, 1), Network: Unplugged, MAC: r.MAC}) // a clone has the same
	openTap(t, a.Netns, a.Tap, 2)[0].Close()
	must0(t, Announce(*a))
	must0(t, h.Detach(t.Context(), *b))
	must0(t, dropNetns(a.Netns)) // the host was rebooted
	again := attach(t, h, a.Request())
	if diff := cmp.Diff(a, again, cmpNet); diff != "" {
		t.Errorf("attached again (-first +second):\n%s", diff)
	}
	must0(t, h.RemoveVM(t.Context(), a.VM))
	must0(t, h.RemoveVM(t.Context(), a.VM))
	sameTraces(t, h, before)
}

func TestHolderNamesWhoHasTheAddress(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "held", Subnet: "10.147.0.0/16"})
	other := h
	other.CacheDir = t.TempDir() // a container engine, or another store
	attach(t, h, Request{VM: vmID(t, 0), Network: "held", MAC: "02:00:00:00:18:01", IPs: addrs("10.147.0.5")})
	theirs := attach(t, other, Request{VM: vmID(t, 1), Network: "held", IPs: addrs("10.147.0.6")})
	for want, r := range map[string]Request{
		"address 10.147.0.5 belongs to VM " + vmID(t, 0):    {IPs: addrs("10.147.0.5")},
		"MAC 02:00:00:00:18:01 belongs to VM " + vmID(t, 0): {MAC: "02:00:00:00:18:01"},
		"address 10.147.0.6 is leased by " + theirs.VM:      {IPs: addrs("10.147.0.6")},
		"": {MAC: "02:00:00:00:18:02", IPs: addrs("10.147.0.7")},
	} {
		r.VM, r.Network = vmID(t, 2), "held"
		got, err := h.Holder(r)
		must0(t, err)
		if got.String() != want {
			t.Errorf("holder %q, want %q", got, want)
		}
	}
	before := traces(t, h)
	_, err := h.Attach(t.Context(), Request{VM: vmID(t, 2), Network: "held", IPs: addrs("10.147.0.6")})
	fails(t, err, 4, "leased by "+theirs.VM)
	sameTraces(t, h, before)
}
