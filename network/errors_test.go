package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/cocoonv2/cocoon/internal/failure"
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
