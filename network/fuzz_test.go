package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

const fuzzVM = "0123456789abcdef0123456789abcdef"

// FuzzResult: what plugins answer becomes an attachment whose record can be read
// back, or an error.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":1,"address":"10.1.0.2/24","gateway":"10.1.0.1"},{"address":"fd00::2/64"}],"dns":{}}`))
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.2/24","gateway":"10.1.0.1"},"ip6":{"ip":"fd00::2/64"}}`))
	f.Add([]byte(`{"cniVersion":"0.4.0","ips":[{"version":"4","address":"::ffff:10.1.0.2/120"}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","ips":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, err := create.CreateFromBytes(b)
		if err != nil {
			return
		}
		result, err := types100.GetResult(answer)
		if err != nil {
			return
		}
		rec := &record{Version: recordVersion, Attachment: Attachment{VM: fuzzVM, Network: "lan"}}
		if take(rec, result) != nil {
			return
		}
		text, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		var back record
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("the record of %s cannot be read back: %v: %s", b, err, text)
		}
		same(t, rec, &back)
		for _, p := range rec.Attachment.IPs {
			if !p.IsValid() {
				t.Errorf("address %v of %s", p, b)
			}
		}
	})
}

func same(t *testing.T, want, got *record) {
	t.Helper()
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if d := cmp.Diff(want, got, addresses, prefixes, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("it reads back as another (-want +got):\n%s", d)
	}
}

// FuzzConflist: a network that is found is kept as it was used, and that can be
// used again to undo it.
func FuzzConflist(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"bridge","bridge":"br0","ipam":{"type":"host-local","dataDir":"/d","subnet":"10.1.0.0/24"}},{"type":"tuning","sysctl":{}}]}`))
	f.Add([]byte(`{"name":"lan","plugins":[{"type":"bridge"}],"disableCheck":"true"}`))
	dir := f.TempDir()
	h := Host{CacheDir: dir, ConfDirs: []string{dir}, PluginDirs: []string{filepath.Join(dir, "bin")}}
	if err := os.Mkdir(h.PluginDirs[0], 0o700); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"bridge", "host-local", "tuning"} {
		if err := os.WriteFile(filepath.Join(h.PluginDirs[0], name), nil, 0o700); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "lan.conflist"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := h.find("lan")
		if err != nil {
			return
		}
		bridges(c.list)
		leaseHolder(c.list.Bytes, "lan", netip.MustParseAddr("10.1.0.2"))
		again, err := libcni.NetworkConfFromBytes(c.list.Bytes)
		if err != nil {
			t.Fatalf("what is kept of %s cannot be used again: %v: %s", b, err, c.list.Bytes)
		}
		if again.Name != "lan" || again.CNIVersion != c.list.CNIVersion || len(again.Plugins) != len(c.list.Plugins) {
			t.Errorf("%s is kept as %s", b, c.list.Bytes)
		}
		if _, err := askForAll(again, Request{IPs: make([]netip.Addr, 2)}); err != nil {
			t.Errorf("no addresses can be asked for of %s: %v", b, err)
		}
	})
}

// FuzzRecord: a record is that of the interface in its file name, and lasts.
func FuzzRecord(f *testing.F) {
	dir := f.TempDir()
	h := Host{CacheDir: dir, NetnsDir: "/n"}
	good := newRecord(h, Request{VM: fuzzVM, Network: "lan", MAC: "02:00:00:00:00:01", IPs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}, &conflist{path: "/c"})
	b, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Replace(b, []byte("10.1.0.2/32"), []byte("::ffff:10.1.0.2/120"), 1))
	if err := os.Mkdir(h.recordsDir(), 0o700); err != nil {
		f.Fatal(err)
	}
	name := good.Attachment.Ifname
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(h.recordPath(fuzzVM, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := h.read(fuzzVM, name)
		if err != nil {
			if !errors.Is(err, failure.Damaged) || errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return
		}
		if collide(rec.Request, rec.Attachment) != nil {
			t.Errorf("an interface is in its own way: %s", b)
		}
		text, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.recordPath(fuzzVM, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := h.read(fuzzVM, name)
		if err != nil {
			t.Fatalf("written again it is damaged: %v: %s", err, text)
		}
		same(t, rec, again)
	})
}

// FuzzAnswered: what neighbours and guests send. Who answers has a MAC that an
// interface may have.
func FuzzAnswered(f *testing.F) {
	mac, v4, v6 := []byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")
	reply := arpFrame(mac, v4, v4)
	reply[21] = 2
	f.Add(reply)
	f.Add(announcement(mac, v4))
	f.Add(announcement(mac, v6))
	f.Add(question(mac, v6, v6))
	f.Fuzz(func(t *testing.T, frame []byte) {
		who, its, ok := answered(frame)
		if !ok {
			return
		}
		if _, err := parseMAC(its.String()); err != nil || !who.IsValid() {
			t.Fatalf("%v answers that it is %s", who, its)
		}
		again := announcement(its, who)
		if who.Is4() {
			again[21] = 2
		}
		if w, m, ok := answered(again); !ok || w != who || !bytes.Equal(m, its) {
			t.Errorf("%v %s, told on: %v %s %v", who, its, w, m, ok)
		}
	})
}
