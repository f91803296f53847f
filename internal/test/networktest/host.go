package networktest

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// Patience bounds whatever a test waits for in the kernel.
const Patience = 3 * time.Second

// Bridge is a network of Debian's bridge and host-local plugins.
type Bridge struct {
	Name, Subnet, Subnet6 string
	Masq                  bool
	MTU                   int
	More                  []map[string]any // plugins after the bridge
}

// WriteConflist is Conflist in a test.
func WriteConflist(t testing.TB, path string, b Bridge) {
	t.Helper()
	if err := Conflist(path, b); err != nil {
		t.Fatal(err)
	}
}

// Conflist writes the conflist of a network; its bridge is br-NAME.
func Conflist(path string, b Bridge) error {
	ranges := []any{[]any{map[string]any{"subnet": b.Subnet}}}
	routes := []any{map[string]any{"dst": "0.0.0.0/0"}}
	if b.Subnet6 != "" {
		ranges = append(ranges, []any{map[string]any{"subnet": b.Subnet6}})
		routes = append(routes, map[string]any{"dst": "::/0"})
	}
	plugins := []map[string]any{{
		"type": "bridge", "bridge": "br-" + b.Name, "isGateway": true, "ipMasq": b.Masq, "mtu": b.MTU,
		"ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
	}}
	text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": b.Name, "plugins": append(plugins, b.More...)})
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// WritePlugin installs a plugin written in sh.
func WritePlugin(t testing.TB, path, body string) {
	t.Helper()
	if err := programtest.Write(path, []byte("#!/bin/sh\n"+body)); err != nil {
		t.Fatal(err)
	}
}

// Traces lists all that attachments leave on the host: devices, netns, the
// records and results below cacheDir, leases, chains of masquerading, and every
// rule of the packet filter.
func Traces(t testing.TB, cacheDir string) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() != "bridge" { // the plugin keeps its bridge for the next one
			out = append(out, "link "+l.Attrs().Name)
		}
	}
	for _, dir := range []string{"/var/run/netns", filepath.Join(cacheDir, "attachments"), filepath.Join(cacheDir, "cni", "results"), "/var/lib/cni/networks"} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" && !strings.HasPrefix(d.Name(), "last_reserved_ip") {
				out = append(out, path)
			}
			return nil
		})
	}
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := nft.ListChains() // iptables of the masquerading among them
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if strings.HasPrefix(c.Name, "CNI-") {
			out = append(out, "chain "+c.Name)
		}
		rules, err := nft.GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		for range rules {
			out = append(out, "rule in "+c.Table.Name+" "+c.Name)
		}
	}
	return out
}

// SameTraces fails unless the traces are those of before. It waits for the
// kernel, which takes a netns apart in the background.
func SameTraces(t testing.TB, cacheDir string, before []string) {
	t.Helper()
	diff := cmp.Diff(before, Traces(t, cacheDir))
	for end := time.Now().Add(Patience); diff != "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		diff = cmp.Diff(before, Traces(t, cacheDir))
	}
	if diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
