package restore

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var byValue = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

var byPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestParseWish(t *testing.T) {
	gateway := []netip.Addr{netip.MustParseAddr("10.1.2.1")}
	for text, want := range map[string]Wish{
		"keep": {How: Keep}, "fresh": {How: Fresh}, "none": {How: None},
		"keep=lan": {How: Keep, Network: "lan"}, "fresh=dmz": {How: Fresh, Network: "dmz"}, "tap=t0": {How: Tap, Tap: "t0"},
		"fresh,guest-ip=10.1.2.3/24": {How: Fresh, GuestIPs: prefixes("10.1.2.3/24")},
		"keep=lan,guest-ip=10.1.2.3": {How: Keep, Network: "lan", GuestIPs: prefixes("10.1.2.3/32")},
		"fresh,guest-ip=10.1.2.3/24,guest-ip=fd00::3/64,guest-gateway=10.1.2.1": {How: Fresh, GuestIPs: prefixes("10.1.2.3/24", "fd00::3/64"), GuestGateways: gateway},
	} {
		if got, err := ParseWish(text); err != nil || !cmp.Equal(got, want, byValue, byPrefix) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "lan", "tap", "tap=", "keep=", "none=x", "=lan", "keep,", "fresh,guest-ip=", "fresh,guest-ip=lan", "fresh,guest-ip=0.0.0.0/0", "fresh,guest-ip=224.0.0.1",
		"none,guest-ip=10.1.2.3", "tap=t0,guest-ip=10.1.2.3", "fresh,guest-gateway=10.1.2.1", "fresh,guest-ip=10.1.2.3,guest-ip=10.1.2.4",
		"fresh,guest-ip=10.1.2.3,guest-gateway=10.1.2.1,guest-gateway=10.1.2.2", "fresh,guest-ip=fe80::1%eth0", "fresh,ip=10.1.2.3",
	} {
		if got, err := ParseWish(text); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: %+v, %v; want a refusal", text, got, err)
		}
	}
}

// TestAKernelIsToldItsAddress: only what is static, and of the interface that is
// meant.
func TestAKernelIsToldItsAddress(t *testing.T) {
	for line, want := range map[string][2]string{ // of interfaces 0 and 1
		"":                         {},
		"quiet ip=dhcp":            {},
		"ip=off ip=::::h:eth0:off": {},
		"root=/dev/vda ip=10.77.0.20::10.77.0.1:255.255.255.0:web:eth0:off": {"10.77.0.20/24 via 10.77.0.1"},
		"ip=10.77.0.20":                               {"10.77.0.20/8"},
		"ip=192.168.7.2:::255.255.0.0":                {"192.168.7.2/16"},
		"ip=10.0.0.1::::a:eth0 ip=10.0.0.2::::a:eth1": {"10.0.0.1/8", "10.0.0.2/8"},
		"ip=10.0.0.2::::a:eth1:off":                   {"", "10.0.0.2/8"},
		"ip=10.0.0.2::::a:ens3:off":                   {},
		"ip=10.0.0.2::::a::off ip=224.0.0.1":          {"10.0.0.2/8"},
		"skip=10.0.0.1 ip=10.0.0.2:::7.7.7.7":         {"10.0.0.2/8"},
	} {
		for i := range 2 {
			ip, gateways, ok := addressOf(line, i, 2)
			got := ""
			if ok {
				got = ip.String()
			}
			for _, g := range gateways {
				got += " via " + g.String()
			}
			if got != want[i] {
				t.Errorf("%q: interface %d is %q, want %q", line, i, got, want[i])
			}
		}
	}
	if ip, _, ok := addressOf("ip=10.0.0.2::::a:ens3:off", 0, 1); !ok || ip.String() != "10.0.0.2/8" {
		t.Errorf("the only interface is %v", ip)
	}
}
