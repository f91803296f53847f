package vm

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// fuzzManager is a manager with the folder of one VM, and a record for seeds.
func fuzzManager(f *testing.F) (*Manager, *Record) {
	f.Helper()
	dir := f.TempDir()
	st, err := store.Open(f.Context(), filepath.Join(dir, "root"), store.Options{Create: true})
	if err != nil {
		f.Fatal(err)
	}
	m := New(st, image.New(st), Options{RunDir: filepath.Join(dir, "run")})
	if err := os.Mkdir(m.Dir(fuzzID), 0o700); err != nil {
		f.Fatal(err)
	}
	d := digest.FromString("x")
	return m, &Record{
		Version: recordVersion, ID: fuzzID, Name: "web", Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), CPUs: 2, MemoryBytes: 1 << 30,
		Kernel: &store.ImageRef{Digest: d, Role: "kernel", Bytes: 5}, Images: []digest.Digest{d}, State: "running",
		Disks:    []Disk{{DeviceID: "_disk0", Serial: "cow0", File: "disk-0.raw", Bytes: 4096}},
		Networks: []Network{{"_net1", network.Attachment{VM: fuzzID, Network: "lan", Tap: "tap0", MAC: "02:00:00:00:00:01"}}},
		Process:  &Process{PID: 7, BootID: "b", StartTime: 9, APISocket: "/s", Version: "53.0.0"},
	}
}

// plainAddresses compares addresses, which hide what they are.
var plainAddresses = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func contents(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// readWith reads the VM with these bytes in one of its files; nil is damage.
func readWith(t *testing.T, m *Manager, path string, b []byte) *Record {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := m.read(fuzzID)
	if err != nil && !errors.Is(err, failure.Damaged) {
		t.Errorf("%v is no damage", err)
	}
	if err != nil {
		return nil
	}
	return rec
}

// FuzzRecord: a record is that of the VM in whose folder it lies, and is saved
// again as the same.
func FuzzRecord(f *testing.F) {
	m, good := fuzzManager(f)
	if err := m.save(good); err != nil {
		f.Fatal(err)
	}
	f.Add(contents(f, m.recordPath(fuzzID)))
	f.Add([]byte(`{"version":1,"id":"0123456789abcdef0123456789abcdef","networks":[{"ips":["10.0.0.1/33"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := readWith(t, m, m.recordPath(fuzzID), b)
		if rec == nil {
			return
		}
		text, err := json.MarshalIndent(rec, "", "  ")
		if err != nil {
			t.Fatalf("%s cannot be changed any more: %v", b, err)
		}
		if err := os.WriteFile(m.recordPath(fuzzID), text, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := m.read(fuzzID)
		if err != nil {
			t.Fatalf("%s cannot be read back: %v", text, err)
		}
		if d := cmp.Diff(rec, again, plainAddresses, cmpopts.EquateEmpty()); d != "" || rec.ID != fuzzID {
			t.Errorf("it reads back as another (-want +got):\n%s", d)
		}
	})
}

// FuzzSleep: whoever reads that a VM sleeps, and on which snapshot, and whoever
// keeps that snapshot from removal, read the same.
func FuzzSleep(f *testing.F) {
	m, good := fuzzManager(f)
	if err := m.save(good); err != nil {
		f.Fatal(err)
	}
	if err := m.writeSleep(fuzzID, &Sleep{Version: sleep.Version, Snapshot: fuzzID, Since: good.Created, Record: good}); err != nil {
		f.Fatal(err)
	}
	f.Add(contents(f, m.SleepPath(fuzzID)))
	f.Add([]byte(`{"version":1,"snapshot":"0123456789abcdef0123456789abcdef","Snapshot":"x","record":{"id":"0123456789abcdef0123456789abcdef"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := readWith(t, m, m.SleepPath(fuzzID), b)
		if rec == nil {
			return
		}
		if rec.ID != fuzzID || rec.Sleep == nil {
			t.Fatalf("VM %q sleeps: %v", rec.ID, rec.Sleep)
		}
		asleep, err := sleep.Sleepers(m.st)
		if err != nil {
			t.Fatalf("the VM sleeps on %s, and the store cannot say so: %v", rec.Sleep.Snapshot, err)
		}
		if s := asleep[rec.Sleep.Snapshot]; s.VM.ID != fuzzID || len(asleep) != 1 {
			t.Errorf("the VM sleeps on %q, the store keeps %v", rec.Sleep.Snapshot, asleep)
		}
	})
}
