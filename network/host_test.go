package network

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// netConf is a bridge network of the tests.
type netConf struct {
	name, subnet, subnet6 string
	masq                  bool
	mtu                   int
	more                  []map[string]any // plugins after the bridge
}

// newHost writes conflists and returns a host with a cache of its own. Plugins
// are looked for in the folder "bin" beside the cache first.
func newHost(t testing.TB, nets ...netConf) Host {
	t.Helper()
	plugins := needPlugins(t)
	dir := t.TempDir()
	for _, sub := range []string{"conf", "bin", "cache"} {
		must0(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	for _, n := range nets {
		writeConf(t, filepath.Join(dir, "conf", n.name+".conflist"), n)
	}
	return Host{CacheDir: filepath.Join(dir, "cache"), ConfDirs: []string{filepath.Join(dir, "conf")}, PluginDirs: []string{filepath.Join(dir, "bin"), plugins}}
}

func writeConf(t testing.TB, path string, n netConf) {
	t.Helper()
	ranges := []any{[]any{map[string]any{"subnet": n.subnet}}}
	routes := []any{map[string]any{"dst": "0.0.0.0/0"}}
	if n.subnet6 != "" {
		ranges = append(ranges, []any{map[string]any{"subnet": n.subnet6}})
		routes = append(routes, map[string]any{"dst": "::/0"})
	}
	plugins := []map[string]any{{
		"type": "bridge", "bridge": "br-" + n.name, "isGateway": true, "ipMasq": n.masq, "mtu": n.mtu,
		"ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
	}}
	b, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": n.name, "plugins": append(plugins, n.more...)})
	must0(t, err)
	must0(t, os.WriteFile(path, b, 0o600))
}

// script installs a plugin written in sh.
func script(t testing.TB, h Host, name, body string) {
	t.Helper()
	must0(t, os.WriteFile(filepath.Join(h.PluginDirs[0], name), []byte("#!/bin/sh\n"+body), 0o700))
}

// traces lists all that an attachment leaves on the host.
func traces(t testing.TB, h Host) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	must0(t, err)
	for _, l := range links {
		if l.Type() != "bridge" { // the plugin keeps its bridge for the next one
			out = append(out, "link "+l.Attrs().Name)
		}
	}
	for _, dir := range []string{h.netnsDir(), h.recordsDir(), filepath.Join(h.CacheDir, "cni", "results"), "/var/lib/cni/networks"} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" && !strings.HasPrefix(d.Name(), "last_reserved_ip") {
				out = append(out, path)
			}
			return nil
		})
	}
	nft, err := nftables.New()
	must0(t, err)
	chains, err := nft.ListChains() // iptables of the masquerading among them
	must0(t, err)
	for _, c := range chains {
		if strings.HasPrefix(c.Name, "CNI-") {
			out = append(out, "chain "+c.Name)
		}
	}
	return out
}

func sameTraces(t testing.TB, h Host, before []string) {
	t.Helper()
	diff := cmp.Diff(before, traces(t, h))
	for end := time.Now().Add(patience); diff != "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the kernel takes a netns apart in the background
		diff = cmp.Diff(before, traces(t, h))
	}
	if diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// vmID is an id that no other test uses.
func vmID(t testing.TB, n int) string {
	var sum uint64 = 14695981039346656037
	for _, b := range []byte(t.Name()) {
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	return fmt.Sprintf("%012x%020x", (sum+uint64(n))&(1<<48-1), n)
}

func attach(t testing.TB, h Host, r Request) *Attachment {
	t.Helper()
	a, err := h.Attach(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Remove(contextOf(t), Leftover{VM: a.VM, Netns: a.Netns, Ifnames: []string{a.Ifname}}) })
	return a
}
