package house

import (
	"net/netip"
	"strings"
	"testing"
)

// multicast MACs, addresses of no family and the like are refused by the parser.
func TestNetworkFlag(t *testing.T) {
	for text, want := range map[string]string{
		"lan": "", "lan,ip=10.0.0.1,mac=02:00:00:00:00:01,queues=2": "", "lan,ip=10.0.0.1,ip=fd00::1": "", "tap=t0": "",
		"lan,ip=10.0.0": "no address", "lan,queues=0": "queue pairs", "lan,mtu=9": "unknown option", "tap=": "tap=NAME",
		"": "tap=NAME", "tap": "tap=NAME", "unplugged": "tap=NAME", "keep": "--from-snapshot", "fresh": "--from-snapshot", "lan=x": "tap=NAME",
	} {
		_, err := ParseNetworks([]string{text})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("--network %q: %v, want %q", text, err, want)
		}
	}
	if _, err := ParseNetworks([]string{"none", "lan"}); err == nil {
		t.Error("none with another network is accepted")
	}
	if got, err := ParseNetworks([]string{"none"}); err != nil || got != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	r, err := parseNetwork("lan,ip=10.0.0.1,mac=02:AA:00:00:00:01")
	if err != nil || r.MAC != "02:aa:00:00:00:01" || r.IPs[0] != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%+v, %v", r, err)
	}
}
