package chsnap

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

const bootable = `{"payload":{"kernel":"/k","cmdline":"old"},"net":[{"id":"_net0","tap":"t0","mac":"02:00:00:00:00:01","mtu":1400},{"id":"_net1"}]}`

// TestABootSaysWhatIsAnotherEachTime, and nothing else than the machine beside it:
// the kernel is told the line of this boot, and no interface more than its network
// takes.
func TestABootSaysWhatIsAnotherEachTime(t *testing.T) {
	for name, c := range map[string]struct {
		link Link
		want string
	}{
		"as it was":                    {Link{}, `{"id":"_net0","mac":"02:00:00:00:00:01","mtu":1400,"tap":"own0"}`},
		"a network that takes more":    {Link{MTU: 9000}, `{"id":"_net0","mac":"02:00:00:00:00:01","mtu":1400,"tap":"own0"}`},
		"a network that takes less":    {Link{MTU: 1300}, `{"id":"_net0","mac":"02:00:00:00:00:01","mtu":1300,"tap":"own0"}`},
		"another MAC on a new network": {Link{MAC: "02:00:00:00:00:09"}, `{"id":"_net0","mac":"02:00:00:00:00:09","mtu":1400,"tap":"own0"}`},
	} {
		parsed, err := ParseConfig([]byte(bootable))
		if err != nil {
			t.Fatal(err)
		}
		m, err := parsed.Machine()
		if err != nil {
			t.Fatal(err)
		}
		w := Rewrite{Kernel: "/own/k", SerialFile: "/own/s", Taps: map[string]string{"_net0": "own0", "_net1": ""}}
		if err := m.Boot(Boot{w, "new", map[string]Link{"_net0": c.link}}); err != nil {
			t.Fatal(err)
		}
		want := `{"payload":{"cmdline":"new","kernel":"/own/k"},"net":[` + c.want + `,{"id":"_net1"}],"console":{"mode":"Null"}}`
		if got := string(m.Bytes()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

// TestAMachineThatNoRequestHoldsIsNone: the VMM would take it at no boot.
func TestAMachineThatNoRequestHoldsIsNone(t *testing.T) {
	for disks, fits := range map[int]bool{16: true, 120: true, 250: false} {
		var list []string
		for i := range disks {
			list = append(list, fmt.Sprintf(`{"id":"_disk%d","path":"/d","serial":"cow%d"}`, i, i))
		}
		c, err := ParseConfig([]byte(`{"payload":{"kernel":"/k"},"disks":[` + strings.Join(list, ",") + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Machine(); (err == nil) != fits || err != nil && !errors.Is(err, failure.Incompatible) {
			t.Errorf("%d disks: %v", disks, err)
		}
	}
}
