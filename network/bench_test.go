package network

import (
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// Each benchmark counts one attach or detach as one operation, with Debian's
// bridge and host-local plugins.

func BenchmarkAttachKeep(b *testing.B) { benchAttach(b, Request{}) }

func BenchmarkAttachFresh(b *testing.B) { benchAttach(b, Request{Identity: Fresh, Guest: benchGuest}) }

var benchGuest = &Guest{MAC: "02:00:00:00:16:01", IPs: prefixes("10.99.0.5/16"), Gateways: addrs("10.99.0.1"), GatewayMAC: "02:aa:00:00:00:01"}

func benchAttach(b *testing.B, r Request) {
	h := newHost(b, networktest.Bridge{Name: "bench", Subnet: "10.160.0.0/16"})
	r.VM, r.Network = vmID(b, 0), "bench"
	for b.Loop() {
		a, err := h.Attach(b.Context(), r)
		must0(b, err)
		b.StopTimer()
		must0(b, h.Detach(b.Context(), *a))
		b.StartTimer()
	}
}

func BenchmarkDetach(b *testing.B) {
	h := newHost(b, networktest.Bridge{Name: "bench", Subnet: "10.160.0.0/16"})
	for b.Loop() {
		b.StopTimer()
		a, err := h.Attach(b.Context(), Request{VM: vmID(b, 0), Network: "bench"})
		must0(b, err)
		b.StartTimer()
		must0(b, h.Detach(b.Context(), *a))
	}
}

// BenchmarkTenAtOnce is ten fresh clones attached in parallel.
func BenchmarkTenAtOnce(b *testing.B) {
	h := newHost(b, networktest.Bridge{Name: "bench", Subnet: "10.160.0.0/16"})
	for b.Loop() {
		atts := make([]*Attachment, 10)
		var wg sync.WaitGroup
		for i := range atts {
			wg.Go(func() {
				a, err := h.Attach(b.Context(), Request{VM: vmID(b, i), Network: "bench", Identity: Fresh, Guest: benchGuest})
				if err != nil {
					b.Error(err)
				}
				atts[i] = a
			})
		}
		wg.Wait()
		if b.Failed() {
			return
		}
		b.StopTimer()
		for _, a := range atts {
			must0(b, h.Detach(b.Context(), *a))
		}
		b.StartTimer()
	}
}
