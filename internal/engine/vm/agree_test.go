package vm

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// said is a snapshot of a VM with a writable disk, an image and an interface, as
// this program writes it, for a test to change.
type said struct {
	spec   store.Spec
	rec    Record
	config map[string]any
}

var (
	baseImage   = digest.FromString("base")
	kernelImage = digest.FromString("kernel")
)

func newSaid() *said {
	kernel := store.ImageRef{Digest: kernelImage, Role: "kernel", Bytes: 5}
	mac := "02:00:00:00:00:01"
	return &said{
		spec: store.Spec{
			CPUs: 2, Memory: []store.MemoryRange{{GPA: 0, Bytes: 128 << 20, Map: digest.FromString("ram")}},
			Disks: []store.Disk{
				{Index: 0, DeviceID: spelling.Claimed("_disk0"), Serial: spelling.Claimed("cow0"), Format: spelling.Claimed("raw"), Bytes: 4096, Map: digest.FromString("d0")},
				{Index: 1, DeviceID: spelling.Claimed("_disk1"), Serial: spelling.Claimed("cow1"), Format: spelling.Claimed("raw"), Bytes: 8192, Readonly: true, Image: baseImage},
			},
			Networks: []store.Network{{ID: spelling.Claimed("_net0"), Name: spelling.Claimed("lan"), MAC: spelling.Claimed(mac), MTU: 1500, IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/16")}}},
			Images:   []store.ImageRef{kernel, {Digest: baseImage, Role: "disk", Bytes: 8192}},
		},
		rec: Record{
			Name: "web", CPUs: 2, MemoryBytes: 128 << 20, Kernel: &kernel, Cmdline: "quiet", Image: "debian",
			Disks: []Disk{
				{Index: 0, DeviceID: "_disk0", Serial: "cow0", File: "disk-0.1234abcd.raw", Bytes: 4096},
				{Index: 1, DeviceID: "_disk1", Serial: "cow1", Image: baseImage, Readonly: true, Bytes: 8192},
			},
			Networks: []Network{{"_net0", network.Attachment{
				VM: "a", Network: "lan", Conflist: "/etc/x", Netns: "/run/x", Ifname: "eth0", Tap: "tap0", MAC: mac, MTU: 1500, QueuePairs: 2,
				IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/16")},
			}}},
			Images:  []digest.Digest{kernelImage, baseImage, digest.FromString("the image that disk 0 is a copy of")},
			Machine: json.RawMessage(`{"devices":[{"path":"/sys/x"}]}`), // what counts is config.json
			Process: &Process{PID: 1},
		},
		config: map[string]any{
			"cpus": map[string]any{"boot_vcpus": 2}, "memory": map[string]any{"size": 128 << 20}, "payload": map[string]any{"kernel": "/x", "cmdline": "quiet"},
			"disks": []any{
				map[string]any{"id": "_disk0", "path": "/a", "serial": "cow0", "readonly": false, "image_type": "Raw"},
				map[string]any{"id": "_disk1", "path": "/b", "serial": "cow1", "readonly": true, "image_type": "Raw"},
			},
			"net": []any{map[string]any{"id": "_net0", "tap": "tap0", "mac": "02:00:00:00:00:01", "num_queues": 4}},
		},
	}
}

func (s *said) disk(i int) map[string]any { return s.config["disks"].([]any)[i].(map[string]any) }
func (s *said) net() map[string]any       { return s.config["net"].([]any)[0].(map[string]any) }

// documents are what of it a restore reads.
func (s *said) documents(t *testing.T, ranges string) Documents {
	t.Helper()
	rec, err1 := json.Marshal(s.rec)
	config, err2 := json.Marshal(s.config)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	spec := s.spec
	spec.Record = rec
	c, err1 := chsnap.ParseConfig(config)
	state, err2 := chsnap.ParseState([]byte(`{"snapshots":{"memory-manager":{"snapshot_data":{"state":"{\"memory_ranges\":{\"data\":` + strings.ReplaceAll(ranges, `"`, `\"`) + `}}"}}}}`))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return Documents{Spec: &spec, Config: c, State: state}
}

const allOfRAM = `[{"gpa":0,"length":134217728}]`

func TestABlueprintIsWhatAllDocumentsSay(t *testing.T) {
	s := newSaid()
	b, err := Agree(s.documents(t, allOfRAM))
	if err != nil {
		t.Fatal(err)
	}
	var rec Record
	b.Fill(&rec)
	images := []digest.Digest{kernelImage, baseImage}
	slices.Sort(images)
	want := Record{
		CPUs: 2, MemoryBytes: 128 << 20, Kernel: s.rec.Kernel, Cmdline: "quiet", Image: "debian", Images: images,
		Disks: []Disk{
			{Index: 0, DeviceID: "_disk0", Serial: "cow0", File: "disk-0.raw", Bytes: 4096},
			{Index: 1, DeviceID: "_disk1", Serial: "cow1", Image: baseImage, Readonly: true, Bytes: 8192},
		},
	}
	want.Machine = json.RawMessage(`{"cpus":{"boot_vcpus":2},"disks":[{"id":"_disk0","image_type":"Raw","readonly":false,"serial":"cow0"},` +
		`{"id":"_disk1","image_type":"Raw","readonly":true,"serial":"cow1"}],"memory":{"size":134217728},` +
		`"net":[{"id":"_net0","mac":"02:00:00:00:00:01","num_queues":4}],"payload":{"cmdline":"quiet"},"console":{"mode":"Null"}}`)
	if diff := cmp.Diff(want, rec); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	n := b.Interfaces()[0]
	if n.ID != "_net0" || n.Network != "lan" || n.Tap+n.Netns+n.Conflist+n.Ifname+n.VM != "" || n.QueuePairs != 2 || n.Remembered.MAC != "02:00:00:00:00:01" || n.SavedMTU != 1500 {
		t.Errorf("interface %+v", n)
	}
	s.spec.Networks = nil // as the first snapshots were
	if b, err := Agree(s.documents(t, allOfRAM)); err != nil || b.Interfaces()[0].Remembered.IPs[0] != s.rec.Networks[0].IPs[0] {
		t.Errorf("without interfaces in the spec: %v", err)
	}
}

// TestDocumentsThatDisagreeMakeNoVM: each is refused by whatever looks at it, also
// where the VMM's documents cannot be read for want of the key.
func TestDocumentsThatDisagreeMakeNoVM(t *testing.T) {
	type change = func(*said)
	claim := spelling.Claimed
	withoutKey := map[string]change{
		"serial with an option in the spec":   func(s *said) { s.spec.Disks[0].Serial = claim("x,path=/etc/shadow") },
		"serial with an option in both":       func(s *said) { s.spec.Disks[0].Serial = claim("x,y"); s.rec.Disks[0].Serial = "x,y" },
		"serial with an option in the record": func(s *said) { s.rec.Disks[0].Serial = "x,path=/etc/shadow" },
		"id with an option in the spec":       func(s *said) { s.spec.Disks[0].DeviceID = claim("_disk0,path=/etc/shadow") },
		"id with an equals sign in both":      func(s *said) { s.spec.Disks[0].DeviceID = claim("a=b"); s.rec.Disks[0].DeviceID = "a=b" },
		"no id":                               func(s *said) { s.spec.Disks[0].DeviceID = claim(""); s.rec.Disks[0].DeviceID = "" },
		"another serial":                      func(s *said) { s.spec.Disks[0].Serial = claim("cow9") },
		"a long serial": func(s *said) {
			x := strings.Repeat("x", 65)
			s.spec.Disks[0].Serial = claim(x)
			s.rec.Disks[0].Serial = x
		},
		"another format":                    func(s *said) { s.spec.Disks[0].Format = claim("qcow2") },
		"index -1":                          func(s *said) { s.spec.Disks[0].Index = -1; s.rec.Disks[0].Index = -1 },
		"one index twice":                   func(s *said) { s.spec.Disks[1].Index = 0; s.rec.Disks[1].Index = 0 },
		"a gap":                             func(s *said) { s.spec.Disks[1].Index = 2; s.rec.Disks[1].Index = 2 },
		"two disks of one id":               func(s *said) { s.spec.Disks[1].DeviceID = claim("_disk0"); s.rec.Disks[1].DeviceID = "_disk0" },
		"another size":                      func(s *said) { s.spec.Disks[0].Bytes = 8192 },
		"a size below zero":                 func(s *said) { s.spec.Disks[0].Bytes = -1; s.rec.Disks[0].Bytes = -1 },
		"an image that is written":          func(s *said) { s.spec.Disks[1].Readonly = false; s.rec.Disks[1].Readonly = false },
		"an image that is written, in one":  func(s *said) { s.spec.Disks[1].Readonly = false },
		"a disk read-only that is no image": func(s *said) { s.spec.Disks[0].Readonly = true; s.rec.Disks[0].Readonly = true },
		"an image only in the spec": func(s *said) {
			s.spec.Disks[0].Image, s.spec.Disks[0].Map, s.spec.Disks[0].Readonly = baseImage, "", true
		},
		"an image only in the record": func(s *said) { s.rec.Disks[0].Image = baseImage },
		"another image":               func(s *said) { s.rec.Disks[1].Image = kernelImage },
		"an image of another size":    func(s *said) { s.spec.Images[1].Bytes = 4096 },
		"an image in another role":    func(s *said) { s.spec.Images[1].Role = "kernel" },
		"an image that nothing stands on": func(s *said) {
			s.spec.Images = append(s.spec.Images, store.ImageRef{Digest: digest.FromString("x"), Role: "disk"})
		},
		"an image that is not named": func(s *said) { s.spec.Images = s.spec.Images[:1] },
		"a kernel that is not named": func(s *said) {
			s.rec.Kernel = &store.ImageRef{Digest: digest.FromString("secret"), Role: "kernel", Bytes: 5}
		},
		"a kernel whose digest is a path": func(s *said) {
			s.rec.Kernel = &store.ImageRef{Digest: "sha256:../../../etc/shadow", Role: "kernel", Bytes: 5}
		},
		"an initramfs that is a kernel": func(s *said) { s.rec.Initramfs = s.rec.Kernel },
		"a disk less":                   func(s *said) { s.rec.Disks = s.rec.Disks[:1] },
		"too many disks":                func(s *said) { s.spec.Disks, s.rec.Disks = make([]store.Disk, 1000), make([]Disk, 1000) },
		"other processors":              func(s *said) { s.spec.CPUs = 3 },
		"processors below zero":         func(s *said) { s.spec.CPUs, s.rec.CPUs = -1, -1 },
		"absurd RAM":                    func(s *said) { s.rec.MemoryBytes = 1 << 60 },
		"ranges that overflow":          func(s *said) { s.spec.Memory = []store.MemoryRange{{Bytes: 1 << 63}, {Bytes: 1 << 63}} },
		"an interface less":             func(s *said) { s.rec.Networks = nil },
		"interface id with a newline":   func(s *said) { s.spec.Networks[0].ID = claim("a\nb"); s.rec.Networks[0].ID = "a\nb" },
		"another interface id":          func(s *said) { s.spec.Networks[0].ID = claim("_net7") },
		"another MAC":                   func(s *said) { s.spec.Networks[0].MAC = claim("02:00:00:00:00:99") },
		"MAC with an option":            func(s *said) { s.spec.Networks[0].MAC = claim("02:00:00:00:00:01,vhost_user=on,socket=x") },
		"MAC with an option in both":    func(s *said) { s.spec.Networks[0].MAC = claim("x,tap=y"); s.rec.Networks[0].MAC = "x,tap=y" },
		"MAC inside that is none":       func(s *said) { s.rec.Networks[0].Guest = &network.Guest{MAC: "x,tap=y"} },
		"gateway's MAC that is none":    func(s *said) { s.spec.Networks[0].GatewayMAC = claim("gw") },
		"TAP with an option":            func(s *said) { s.rec.Networks[0].Tap = "tap0,fd=3" },
		"network with an option":        func(s *said) { s.rec.Networks[0].Network = "lan,x" },
		"an unknown identity":           func(s *said) { s.rec.Networks[0].Identity = "x" },
		"a million queues":              func(s *said) { s.rec.Networks[0].QueuePairs = 1e6 },
		"an MTU below zero":             func(s *said) { s.spec.Networks[0].MTU = -1 },
		"an absurd MTU":                 func(s *said) { s.rec.Networks[0].MTU = 1 << 20 },
		"interfaces without end": func(s *said) {
			s.spec.Networks, s.rec.Networks = slices.Repeat(s.spec.Networks, 17), slices.Repeat(s.rec.Networks, 17)
		},
		"two interfaces of one id": func(s *said) {
			s.spec.Networks, s.rec.Networks = slices.Repeat(s.spec.Networks, 2), slices.Repeat(s.rec.Networks, 2)
			s.config["net"] = slices.Repeat(s.config["net"].([]any), 2)
		},
		"an image name that is none": func(s *said) { s.rec.Image = "a\x1b[2J" },
	}
	withKey := map[string]change{
		"a disk less in config.json":       func(s *said) { s.config["disks"] = s.config["disks"].([]any)[:1] },
		"a disk more in config.json":       func(s *said) { s.config["disks"] = append(s.config["disks"].([]any), map[string]any{"id": "x"}) },
		"disks in another order":           func(s *said) { slices.Reverse(s.config["disks"].([]any)) },
		"another serial in config.json":    func(s *said) { s.disk(0)["serial"] = "cow9" },
		"an image written in config.json":  func(s *said) { s.disk(1)["readonly"] = false },
		"a disk read-only in config.json":  func(s *said) { s.disk(0)["readonly"] = true },
		"another MAC in config.json":       func(s *said) { s.net()["mac"] = "02:00:00:00:00:99" },
		"another interface in config.json": func(s *said) { s.net()["id"] = "_net7" },
		"other queues in config.json":      func(s *said) { s.net()["num_queues"] = 200 },
		"an interface less in config.json": func(s *said) { s.config["net"] = []any{} },
		"a firmware only in config.json":   func(s *said) { s.config["payload"].(map[string]any)["firmware"] = "/x" },
		"a kernel only in the record":      func(s *said) { s.config["payload"] = map[string]any{} },
		"other ranges in the spec":         func(s *said) { s.spec.Memory[0].Bytes = 64 << 20 },
	}
	resized := map[string]change{
		// Of our own it is refused where it would be an argument.
		"a command line that is a flag":   func(s *said) { s.rec.Cmdline = "--disk=path=/etc/shadow" },
		"other processors in config.json": func(s *said) { s.config["cpus"] = map[string]any{"boot_vcpus": 8} },
		"other RAM in config.json":        func(s *said) { s.config["memory"] = map[string]any{"size": 1 << 30} },
	}
	for kind, cases := range map[string]map[string]change{"without key": withoutKey, "with key": withKey, "resized": resized} {
		for name, spoil := range cases {
			s := newSaid()
			spoil(s)
			d := s.documents(t, allOfRAM)
			if _, err := Agree(d); !errors.Is(err, failure.Damaged) {
				t.Errorf("%s: %v", name, err)
			}
			d.Own = true
			if _, err := Agree(d); errors.Is(err, failure.Damaged) == (kind == "resized") {
				t.Errorf("%s, of our own: %v", name, err)
			}
			d.Own, d.Config, d.State = false, nil, nil
			if _, err := Agree(d); errors.Is(err, failure.Damaged) != (kind == "without key" || s.rec.Cmdline != "quiet") {
				t.Errorf("%s, without the key: %v", name, err)
			}
		}
	}
	for _, record := range []string{"", "no JSON", "null", "[]"} {
		d := newSaid().documents(t, allOfRAM)
		if d.Spec.Record = json.RawMessage(record); !errors.Is(agreeError(d), failure.Damaged) {
			t.Errorf("record %q: %v", record, agreeError(d))
		}
	}
}

// TestRAMToPlugInCountsInOurOwnOnly: a stranger's word gives a VMM no more of this
// host's memory.
func TestRAMToPlugInCountsInOurOwnOnly(t *testing.T) {
	for own, want := range map[bool]int64{true: 1 << 40, false: 0} {
		s := newSaid()
		s.config["memory"].(map[string]any)["hotplug_size"] = 1 << 40
		d := s.documents(t, allOfRAM)
		d.Own = own
		b, err := Agree(d)
		if err != nil || b.rec.HotplugBytes != want {
			t.Errorf("own %v: %d bytes to plug in (%v), want %d", own, b.rec.HotplugBytes, err, want)
		}
	}
}

func agreeError(d Documents) error {
	_, err := Agree(d)
	return err
}

// FuzzAgree: of whatever spec and record say, a blueprint makes arguments that are
// just as many, with the values that the record then has.
func FuzzAgree(f *testing.F) {
	s := newSaid()
	rec, err1 := json.Marshal(s.rec)
	s.spec.Record = rec
	spec, err2 := json.Marshal(s.spec)
	if err := errors.Join(err1, err2); err != nil {
		f.Fatal(err)
	}
	f.Add(spec)
	m, _ := fuzzManager(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		var sp store.Spec
		if json.Unmarshal(b, &sp) != nil {
			return
		}
		b2, err := Agree(Documents{Spec: &sp})
		if err != nil {
			return
		}
		r := Record{ID: fuzzID}
		b2.Fill(&r)
		if r.Cmdline, r.ExtraArgs = "", nil; len(r.Disks) != len(sp.Disks) || r.Process != nil {
			t.Fatalf("%+v", r)
		}
		args := m.ColdBootArgs(t.Context(), &r)
		list, err := args.List()
		if err != nil {
			t.Fatalf("%+v makes no arguments: %v", r, err)
		}
		if n := strings.Count(strings.Join(list, " "), "path="); n != len(r.Disks) {
			t.Errorf("%d paths of %d disks: %q", n, len(r.Disks), list)
		}
		for i, d := range r.Disks {
			if (d.Image != "") != d.Readonly || d.Index != i || (d.Image == "") != (d.File == diskFile(i)) {
				t.Errorf("disk %+v", d)
			}
		}
	})
}
