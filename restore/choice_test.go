package restore

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/programtest"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// networked is an engine of a host with the networks lan and dmz, and where leases of
// their addresses are noted.
func networked(t *testing.T) (e *Engine, leases string) {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), filepath.Join(dir, "root"), store.Options{Create: true})
	must(t, err)
	leases = filepath.Join(dir, "leases")
	for _, name := range []string{"bridge", "host-local"} { // which nobody starts
		must(t, programtest.Write(filepath.Join(dir, name), []byte("#!/bin/sh\nexit 1\n")))
	}
	for _, name := range []string{"lan", "dmz"} {
		must(t, os.MkdirAll(filepath.Join(leases, name), 0o755))
		conflist := `{"cniVersion":"1.0.0","name":"` + name + `","plugins":[{"type":"bridge","ipam":{"type":"host-local","dataDir":"` + leases + `"}}]}`
		must(t, os.WriteFile(filepath.Join(dir, name+".conflist"), []byte(conflist), 0o600))
	}
	images := image.New(st)
	vms := vm.New(st, images, vm.Options{RunDir: filepath.Join(dir, "run"), Network: network.Host{CacheDir: st.Path("network"), ConfDirs: []string{dir}, PluginDirs: []string{dir}}})
	return &Engine{Store: st, Images: images, VMs: vms}, leases
}

// onLAN is an interface as a snapshot or a record has it.
func onLAN() network.Attachment {
	return network.Attachment{
		Network: "lan", Netns: "/run/netns/x", MAC: "02:00:00:00:00:01", IPs: prefixes("10.0.0.2/24"),
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MTU: 1500, QueuePairs: 2,
	}
}

// TestAnInterfaceIsWhereItIsWantedOrWasIfItCanBe.
func TestAnInterfaceIsWhereItIsWantedOrWasIfItCanBe(t *testing.T) {
	guestIP := Wish{How: Keep, GuestIPs: prefixes("10.0.0.77/24")}
	for name, c := range map[string]struct {
		is     func(*network.Attachment, *choice)
		wish   Wish
		leased string // address that somebody else has
		clones int
		how    string
		on     string
		mac    string
		ips    string // wanted outside
		class  error
		says   string
	}{
		"as it was":              {nil, Wish{}, "", 1, Keep, "lan", "02:00:00:00:00:01", "10.0.0.2", nil, "its address is free"},
		"its address is taken":   {nil, Wish{}, "10.0.0.2", 1, Fresh, "lan", "", "", nil, "is leased by"},
		"clones":                 {nil, Wish{}, "", 2, Fresh, "lan", "", "", nil, "as a clone"},
		"kept":                   {nil, Wish{How: Keep}, "", 1, Keep, "lan", "02:00:00:00:00:01", "10.0.0.2", nil, "asked for"},
		"kept elsewhere":         {nil, Wish{How: Keep, Network: "dmz"}, "", 1, Keep, "dmz", "02:00:00:00:00:01", "10.0.0.2", nil, "asked for"},
		"kept, taken":            {nil, Wish{How: Keep}, "10.0.0.2", 1, "", "", "", "", failure.Conflict, "--network fresh"},
		"kept by clones":         {nil, Wish{How: Keep}, "", 3, "", "", "", "", failure.Usage, "fresh or none"},
		"kept as the guest says": {nil, guestIP, "", 1, Keep, "lan", "02:00:00:00:00:01", "10.0.0.77", nil, "asked for"},
		"kept on no network":     {nil, Wish{How: Keep, Network: "wan"}, "", 1, "", "", "", "", failure.NotFound, "or --network none"},
		"fresh":                  {nil, Wish{How: Fresh}, "", 1, Fresh, "lan", "", "", nil, "asked for"},
		"fresh elsewhere":        {nil, Wish{How: Fresh, Network: "dmz"}, "", 1, Fresh, "dmz", "", "", nil, "asked for"},
		"fresh on no network":    {nil, Wish{How: Fresh, Network: "wan"}, "", 1, "", "", "", "", failure.NotFound, "fresh=NAME"},
		"fresh of a guest that nobody knows": {
			func(a *network.Attachment, _ *choice) { a.IPs = nil },
			Wish{How: Fresh, Network: "dmz"},
			"", 1, "", "", "", "", failure.Incompatible,
			"--network fresh=dmz,guest-ip=",
		},
		"fresh was fresh": {func(a *network.Attachment, _ *choice) {
			a.Identity, a.Guest = network.Fresh, &network.Guest{MAC: "02:00:00:00:00:09", IPs: prefixes("192.168.0.9/24")}
		}, Wish{How: Keep}, "", 1, Keep, "lan", "02:00:00:00:00:01", "10.0.0.2", nil, "asked for"},
		"none":  {nil, Wish{How: None}, "", 3, None, network.Unplugged, "02:00:00:00:00:01", "", nil, "asked for"},
		"a TAP": {nil, Wish{How: Tap, Tap: "t9"}, "", 1, Tap, network.Tap, "02:00:00:00:00:01", "", nil, "asked for"},
		"was a TAP": {func(a *network.Attachment, _ *choice) {
			*a = network.Attachment{Network: network.Tap, Tap: "t1", MAC: a.MAC}
		}, Wish{}, "", 1, Tap, network.Tap, "02:00:00:00:00:01", "", nil, "the host's"},
		"was a TAP, for two":            {func(a *network.Attachment, _ *choice) { *a = network.Attachment{Network: network.Tap, Tap: "t1"} }, Wish{}, "", 2, "", "", "", "", failure.Incompatible, "serves one VM"},
		"was a TAP, fresh":              {func(a *network.Attachment, _ *choice) { a.Network = network.Tap }, Wish{How: Fresh}, "", 1, "", "", "", "", failure.Incompatible, "needs a CNI network"},
		"was nowhere":                   {func(a *network.Attachment, _ *choice) { a.Network = network.Unplugged }, Wish{}, "", 1, None, network.Unplugged, "02:00:00:00:00:01", "", nil, "as the snapshot was"},
		"was nowhere, kept":             {func(a *network.Attachment, _ *choice) { a.Network = network.Unplugged }, Wish{How: Keep}, "", 1, None, network.Unplugged, "02:00:00:00:00:01", "", nil, "as the snapshot was"},
		"of another host":               {func(_ *network.Attachment, c *choice) { c.snapshot.Meta.Origin = &store.Origin{} }, Wish{}, "", 1, None, network.Unplugged, "02:00:00:00:00:01", "", nil, "is what it says itself"},
		"of a network that is not here": {func(a *network.Attachment, _ *choice) { a.Network = "wan" }, Wish{}, "", 1, "", "", "", "", failure.NotFound, "there are: dmz, lan"},
		"as nobody knows":               {nil, Wish{How: "warp"}, "", 1, "", "", "", "", failure.Usage, "warp"},
	} {
		t.Run(name, func(t *testing.T) {
			e, leases := networked(t)
			if c.leased != "" {
				must(t, os.WriteFile(filepath.Join(leases, "lan", c.leased), []byte("somebody\neth0"), 0o600))
			}
			a := onLAN()
			s := saved(t, plainMemory, 0)
			ch := choice{Engine: e, snapshot: s.snapshot, wish: c.wish, clones: c.clones}
			ch.snapshot.Meta.Origin = &store.Origin{Captured: true}
			if c.is != nil {
				c.is(&a, &ch)
			}
			ch.source = vm.Interface{ID: "_net0", Attachment: a, Remembered: a.Inside(), SavedMTU: 1400}
			ch.remember(0, 1, "")
			p, err := ch.decide()
			if c.class != nil {
				refused(t, name, err, c.class, c.says)
				return
			}
			must(t, err)
			var ips []string
			for _, ip := range p.request.IPs {
				ips = append(ips, ip.String())
			}
			if p.How != c.how || p.request.Network != c.on || p.request.MAC != c.mac || strings.Join(ips, " ") != c.ips || !strings.Contains(p.Why, c.says) {
				t.Errorf("%s on %s as %s %q (%s)", p.How, p.request.Network, p.request.MAC, ips, p.Why)
			}
			if p.request.MTU != 1400 || p.request.QueuePairs != a.QueuePairs {
				t.Errorf("the guest's device changes: MTU %d, %d queue pairs", p.request.MTU, p.request.QueuePairs)
			}
			if p.How == Fresh && (p.request.Guest == nil || len(p.request.Guest.IPs) == 0) {
				t.Errorf("fresh, and nothing is mapped: %+v", p.request)
			}
		})
	}
}

// TestAVMWithoutAProcessMayBePutElsewhere, all of it or nothing.
func TestAVMWithoutAProcessMayBePutElsewhere(t *testing.T) {
	e, leases := networked(t)
	rec := &vm.Record{ID: strings.Repeat("a", 32), Name: "web", Networks: []vm.Network{{ID: "_net0", Attachment: onLAN()}, {ID: "_net1", Attachment: onLAN()}}}
	rec.Networks[1].MAC, rec.Networks[1].IPs = "02:00:00:00:00:02", prefixes("10.0.0.3/24")
	join := Wish{How: Join, Wanted: network.Request{Network: "dmz"}}
	for name, c := range map[string]struct {
		wishes []Wish
		class  error
		says   string
	}{
		"too few":            {[]Wish{{}, {}, {}}, failure.Usage, "3 networks given"},
		"a TAP beside a LAN": {[]Wish{{How: Tap, Tap: "t0"}, {How: Keep}}, failure.Usage, "do not mix"},
		"other queues":       {[]Wish{{How: Join, Wanted: network.Request{Network: "dmz", QueuePairs: 4}}}, failure.Usage, "2 queue pairs"},
		"no such network":    {[]Wish{{How: Join, Wanted: network.Request{Network: "wan"}}}, failure.NotFound, "interface _net0 of VM web"},
	} {
		_, _, err := e.Rewire(rec, c.wishes)
		refused(t, name, err, c.class, c.says)
	}
	nets, plans, err := e.Rewire(rec, []Wish{join})
	if err != nil || len(nets) != 2 || nets[0].Network != "dmz" || nets[0].MAC != "02:00:00:00:00:01" || plans[1].How != Join || !strings.Contains(plans[1].String(), "_net1: join on dmz") {
		t.Errorf("%+v, %+v, %v", nets, plans, err)
	}
	asleep := *rec
	asleep.Sleep = &vm.Sleep{}
	_, _, err = e.Rewire(&asleep, []Wish{join})
	refused(t, "a guest that goes on", err, failure.Usage, "keeps its address", "--cold")
	_, _, err = e.Rewire(&vm.Record{Name: "bare"}, []Wish{join})
	refused(t, "no interface", err, failure.Usage, "no interface")
	must(t, os.WriteFile(filepath.Join(leases, "dmz", "10.0.0.9"), []byte("somebody"), 0o600))
	taken := join
	taken.Wanted.IPs = []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	_, _, err = e.Rewire(rec, []Wish{taken, {How: None}})
	refused(t, "an address that is taken", err, failure.Conflict, "leased by somebody")
	before := rec.Networks
	must(t, e.Leave(t.Context(), rec, nil, nil))
	if err := e.Leave(t.Context(), rec, []Wish{taken}, nil); !errors.Is(err, failure.Conflict) || &rec.Networks[0] != &before[0] {
		t.Errorf("after a refusal: %v, %+v", err, rec.Networks)
	}
	var told []string
	must(t, e.Leave(t.Context(), rec, []Wish{{How: None}}, func(p NetworkPlan) { told = append(told, p.How) }))
	if strings.Join(told, " ") != "none none" || rec.Networks[0].Network != network.Unplugged || rec.Networks[1].MAC != "02:00:00:00:00:02" {
		t.Errorf("told %q, %+v", told, rec.Networks)
	}
}

// TestWhatAGuestBelievesIsKnownFromTheFirstWhoSays: the operator, the snapshot, its
// command line.
func TestWhatAGuestBelievesIsKnownFromTheFirstWhoSays(t *testing.T) {
	a := onLAN()
	remembered := network.Guest{MAC: a.MAC, IPs: a.IPs, Gateways: a.Gateways, GatewayMAC: "02:00:00:00:00:ff"}
	bare := network.Guest{MAC: a.MAC}
	for name, c := range map[string]struct {
		remembered network.Guest
		wish       Wish
		cmdline    string
		ip         string
		gatewayMAC string
		said       bool
		told       string
	}{
		"the snapshot":              {remembered, Wish{}, "ip=10.9.9.9", "10.0.0.2/24", "02:00:00:00:00:ff", false, ""},
		"the operator":              {remembered, Wish{GuestIPs: prefixes("10.0.0.5/24")}, "", "10.0.0.5/24", "", true, ""},
		"the operator, its gateway": {remembered, Wish{GuestIPs: prefixes("10.0.0.5/24"), GuestGateways: a.Gateways}, "", "10.0.0.5/24", "02:00:00:00:00:ff", true, ""},
		"its command line":          {bare, Wish{}, "ip=10.9.9.9::10.9.9.1:255.255.255.0", "10.9.9.9/24", "", true, "its kernel was told that it is 10.9.9.9"},
		"nobody":                    {bare, Wish{}, "quiet", "", "", false, ""},
	} {
		ch := choice{wish: c.wish, source: vm.Interface{Attachment: a, Remembered: c.remembered}}
		told := ch.remember(0, 1, c.cmdline)
		ip := ""
		if len(ch.guest.IPs) > 0 {
			ip = ch.guest.IPs[0].String()
		}
		if ip != c.ip || ch.guest.GatewayMAC != c.gatewayMAC || ch.said != c.said || !strings.Contains(told, c.told) || (c.told == "") != (told == "") {
			t.Errorf("%s: %s, gateway %q, said %v, told %q", name, ip, ch.guest.GatewayMAC, ch.said, told)
		}
	}
}
