package vm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

func TestARecordFromElsewhereAddsNoArguments(t *testing.T) {
	good := func() *Record {
		return &Record{
			CPUs: 2, MemoryBytes: 1 << 30, Kernel: &store.ImageRef{Digest: digest.FromString("k")},
			Disks:    []Disk{{DeviceID: "_disk0", Serial: "cow0"}},
			Networks: []Network{{"_net1", network.Attachment{Network: "lan", Tap: "tap0", MAC: "02:00:00:00:00:01"}}},
		}
	}
	for name, spoil := range map[string]func(*Record){
		"serial with an option":   func(r *Record) { r.Disks[0].Serial = "x,path=/etc/shadow" },
		"device id with an equal": func(r *Record) { r.Disks[0].DeviceID = "a=b" },
		"TAP with an option":      func(r *Record) { r.Networks[0].Tap = "tap0,fd=3" },
		"MAC that is none":        func(r *Record) { r.Networks[0].MAC = "02:00:00:00:00:01,tap=x" },
		"MAC inside that is none": func(r *Record) { r.Networks[0].Guest = &network.Guest{MAC: "x,tap=y"} },
		"network id with newline": func(r *Record) { r.Networks[0].ID = "a\nb" },
		"a long word":             func(r *Record) { r.Disks[0].Serial = strings.Repeat("x", 65) },
		"a digest that is a path": func(r *Record) { r.Kernel.Digest = "sha256:../../../etc/shadow" },
		"another algorithm":       func(r *Record) { r.Images = []digest.Digest{digest.SHA512.FromString("x")} },
		"an image digest":         func(r *Record) { r.Disks[0].Image = "nonsense" },
		"no processors":           func(r *Record) { r.CPUs = -1 },
		"absurd RAM":              func(r *Record) { r.MemoryBytes = 1 << 60 },
		"too many disks":          func(r *Record) { r.Disks = make([]Disk, 1000) },
	} {
		r := good()
		if err := r.CheckForeign(); err != nil {
			t.Fatal(err)
		}
		spoil(r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeForeign(b); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeForeign([]byte("no JSON")); !errors.Is(err, failure.Damaged) {
		t.Errorf("no JSON: %v", err)
	}
}

func FuzzDecodeForeign(f *testing.F) {
	f.Add([]byte(`{"disks":[{"serial":"cow0"}],"networks":[{"mac":"02:00:00:00:00:01"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := DecodeForeign(b)
		if err != nil {
			return
		}
		for _, d := range rec.Disks {
			if strings.ContainsAny(d.Serial+d.DeviceID, ",= \n\x00") {
				t.Fatalf("%+v", d)
			}
		}
	})
}
