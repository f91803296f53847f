package network

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// newHost writes conflists and returns a host with a cache of its own. Plugins
// are looked for in the folder "bin" beside the cache first.
func newHost(t testing.TB, nets ...networktest.Bridge) Host {
	t.Helper()
	plugins := networktest.NeedPlugins(t)
	dir := t.TempDir()
	for _, sub := range []string{"conf", "bin", "cache"} {
		must0(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	for _, n := range nets {
		networktest.WriteConflist(t, filepath.Join(dir, "conf", n.Name+".conflist"), n)
	}
	return Host{CacheDir: filepath.Join(dir, "cache"), ConfDirs: []string{filepath.Join(dir, "conf")}, PluginDirs: []string{filepath.Join(dir, "bin"), plugins}}
}

// script installs a plugin written in sh.
func script(t testing.TB, h Host, name, body string) {
	t.Helper()
	networktest.WritePlugin(t, filepath.Join(h.PluginDirs[0], name), body)
}

func traces(t testing.TB, h Host) []string {
	t.Helper()
	return networktest.Traces(t, h.CacheDir)
}

func sameTraces(t testing.TB, h Host, before []string) {
	t.Helper()
	networktest.SameTraces(t, h.CacheDir, before)
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
