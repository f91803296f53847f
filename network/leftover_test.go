package network

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

func TestLeftoversAreThoseOfNoLivingVM(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "left", Subnet: "10.150.0.0/16", Masq: true})
	live := attach(t, h, Request{VM: vmID(t, 0), Network: "left"})
	before := traces(t, h)
	dead := attach(t, h, Request{VM: vmID(t, 1), Network: "left"})
	rebooted := attach(t, h, Request{VM: vmID(t, 2), Network: "left"})
	must0(t, dropNetns(rebooted.Netns))
	torn := attach(t, h, Request{VM: vmID(t, 3), Network: Unplugged})
	must0(t, dropNetns(torn.Netns))
	must0(t, os.WriteFile(torn.Netns, nil, 0o444))
	foreign := h.netnsPath(vmID(t, 4)) // of a store with other records
	must0(t, makeNetns(foreign, vmID(t, 4), ""))

	left, err := h.Leftovers([]string{live.VM})
	must0(t, err)
	want := []Leftover{
		{VM: dead.VM, Netns: dead.Netns, Ifnames: []string{"eth0"}},
		{VM: rebooted.VM, Ifnames: []string{"eth0"}},
		{VM: torn.VM, Netns: torn.Netns, Ifnames: []string{"eth0"}},
	}
	slices.SortFunc(want, func(a, b Leftover) int { return strings.Compare(a.VM, b.VM) })
	if diff := cmp.Diff(want, left); diff != "" {
		t.Fatalf("leftovers (-want +got):\n%s", diff)
	}
	g := boot(t, dead)
	fails(t, h.RemoveVM(t.Context(), dead.VM), 4, dead.Netns)
	g.halt()
	for _, l := range left {
		must0(t, h.Remove(t.Context(), l))
		must0(t, h.Remove(t.Context(), l))
	}
	must0(t, dropNetns(foreign))
	sameTraces(t, h, before)
	must0(t, ping(boot(t, live).netns, "10.150.0.1"))
	if err := h.Remove(t.Context(), Leftover{VM: live.VM, Netns: "/etc/passwd"}); !errors.Is(err, failure.Usage) {
		t.Errorf("a netns elsewhere: %v", err)
	}
}

func TestTornFilesDoNotKeepAnAttachmentAlive(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "torn", Subnet: "10.151.0.0/16", Masq: true})
	before := traces(t, h)
	for name, tear := range map[string]func(a *Attachment){
		"libcni's result": func(a *Attachment) { truncate(t, filepath.Join(h.CacheDir, "cni", "results", "torn-"+a.VM+"-eth0")) },
		"record":          func(a *Attachment) { truncate(t, h.recordPath(a.VM, a.Ifname)) },
		"both, and the netns is gone": func(a *Attachment) {
			truncate(t, h.recordPath(a.VM, a.Ifname))
			truncate(t, filepath.Join(h.CacheDir, "cni", "results", "torn-"+a.VM+"-eth0"))
			must0(t, dropNetns(a.Netns))
		},
		"cache folder": func(*Attachment) { must0(t, os.RemoveAll(h.CacheDir)) },
	} {
		a := attach(t, h, Request{VM: vmID(t, 0), Network: "torn"})
		tear(a)
		if err := h.Detach(t.Context(), *a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		sameTraces(t, h, before)
	}
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "torn"})
	if len(traces(t, h)) < len(before)+6 { // veth, netns, record, result, lease, masquerading
		t.Errorf("an attachment leaves only %v", traces(t, h))
	}
	must0(t, os.Remove(a.Conflist))
	must0(t, h.Detach(t.Context(), *a)) // the record remembers the conflist
	sameTraces(t, h, before)
}

func TestRemoveOfATornRecordUsesTheCachedResult(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "torn2", Subnet: "10.152.0.0/16"})
	before := traces(t, h)
	a := attach(t, h, Request{VM: vmID(t, 0), Network: "torn2"})
	truncate(t, h.recordPath(a.VM, a.Ifname))
	left, err := h.Leftovers(nil)
	must0(t, err)
	for _, l := range left {
		must0(t, h.Remove(t.Context(), l))
	}
	sameTraces(t, h, before)
}

func TestAttachRepairsWhatACrashLeft(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "crash", Subnet: "10.153.0.0/16", Masq: true})
	before := traces(t, h)
	r := Request{VM: vmID(t, 0), Network: "crash", IPs: addrs("10.153.0.7")}
	for name, spoil := range map[string]func(a *Attachment){
		"nothing lost":               func(*Attachment) {},
		"netns name without a netns": func(a *Attachment) { must0(t, dropNetns(a.Netns)); must0(t, os.WriteFile(a.Netns, nil, 0o444)) },
		"record torn":                func(a *Attachment) { truncate(t, h.recordPath(a.VM, a.Ifname)) },
		"cache lost":                 func(*Attachment) { must0(t, os.RemoveAll(h.CacheDir)) },
		"host rebooted": func(a *Attachment) {
			must0(t, dropNetns(a.Netns))
			nft, err := nftables.New()
			must0(t, err)
			nft.FlushRuleset()
			must0(t, nft.Flush())
			must0(t, dropLink("br-crash"))
		},
		"TAP lost": func(a *Attachment) { must0(t, InNetns(a.Netns, func() error { return dropLink(a.Tap) })) },
	} {
		spoil(attach(t, h, r))
		a, err := h.Attach(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		g := boot(t, a)
		if err := ping("", "10.153.0.7"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := h.Attach(t.Context(), r); failure.Code(err) != 4 {
			t.Errorf("%s: attached under a running VM: %v", name, err)
		}
		g.halt()
		must0(t, h.Detach(t.Context(), *a))
		sameTraces(t, h, before)
	}
}

func truncate(t testing.TB, path string) {
	t.Helper()
	st, err := os.Stat(path)
	must0(t, err)
	must0(t, os.Truncate(path, st.Size()/2))
}
