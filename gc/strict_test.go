package gc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

const someVM = "0123456789abcdef0123456789abcdef"

// TestWhatAnOwnerRefusesIsNoRoot: a document that says too little, too much, or
// belongs elsewhere ends the run, whichever room it is of; nothing is swept.
func TestWhatAnOwnerRefusesIsNoRoot(t *testing.T) {
	d := string(digest.FromString("x"))
	record := func(rest string) string {
		return fmt.Sprintf(`{"version":1,"id":%q,"name":"web","disks":[],"networks":[],"images":[%q],"state":"stopped"%s}`, someVM, d, rest)
	}
	sleep := func(version int, snapshot, rest string) string {
		return fmt.Sprintf(`{"version":%d,"snapshot":%q,"since":"2026-01-01T00:00:00Z","record":%s%s}`, version, snapshot, record(""), rest)
	}
	for path, bad := range map[string]map[string]string{
		"vms/" + someVM + "/record.json": {
			"nothing":               `{}`,
			"null":                  `null`,
			"a list":                `[]`,
			"version only":          `{"version":1}`,
			"of a newer version":    strings.Replace(record(""), `"version":1`, `"version":2`, 1),
			"of version 99":         `{"version":99,"id":"x","kernel":{"digest":"sha256:zz"}}`,
			"of another VM":         strings.Replace(record(""), someVM, "f"+someVM[1:], 1),
			"with a new field":      record(`,"firmwareVars":"` + d + `"`),
			"with one in a disk":    strings.Replace(record(""), `"disks":[]`, `"disks":[{"index":0,"overlay":"`+d+`"}]`, 1),
			"with a digest of none": strings.Replace(record(""), d, "sha256:zz", 1),
			"two of them":           record("") + record(""),
		},
		"vms/" + someVM + "/suspend.json": {
			"nothing":            `{}`,
			"null":               `null`,
			"of a newer version": sleep(2, someVM, ""),
			"of no snapshot":     sleep(1, "", ""),
			"of a strange one":   sleep(1, "../x", ""),
			"with a new field":   sleep(1, someVM, `,"tpm":"`+d+`"`),
			"of another VM":      strings.Replace(sleep(1, someVM, ""), `"id":"0`, `"id":"f`, 1),
			"without a record":   `{"version":1,"snapshot":"` + someVM + `"}`,
		},
		"images/disk.json": {
			"nothing":          `{}`,
			"null":             `null`,
			"of another name":  `{"id":"` + d + `","name":"other"}`,
			"with a new field": `{"id":"` + d + `","name":"disk","backing":"` + d + `"}`,
			"of a version":     `{"version":2,"id":"` + d + `","name":"disk"}`,
		},
		"pins/p.json": {
			"nothing":          `{}`,
			"null":             `null`,
			"of version 2":     `{"version":2,"digests":["` + d + `"]}`,
			"with a new field": `{"digests":["` + d + `"],"snapshots":["` + someVM + `"]}`,
			"of another":       `{"id":"q","digests":["` + d + `"]}`,
		},
		"leases/" + someVM: {
			"of a kind that is unknown": "for a test\nimage:" + d[7:] + "\n",
			"of a snapshot of none":     "for a test\nsnapshot:../x\n",
			"of a VM of none":           "for a test\nvm:\n",
		},
		"journals/" + someVM + ".json": {
			"nothing":          `{}`,
			"of another VM":    `{"vm":"f` + someVM[1:] + `","snapshot":"x","started":"2026-01-01T00:00:00Z"}`,
			"with a new field": `{"vm":"` + someVM + `","snapshot":"x","started":"2026-01-01T00:00:00Z","disks":["/x"]}`,
		},
	} {
		for name, text := range bad {
			t.Run(path+" "+name, func(t *testing.T) {
				s := open(t, filepath.Join(t.TempDir(), "root"))
				mustPublish(t, s, "kept")
				orphan := orphans(t, s, "orphan")
				file := s.Path(strings.Split(path, "/")...)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(path, "leases/") {
					lockLease(t, file)
				}
				_, err := run(t.Context(), s, Options{Sources: []garbage.Source{(&restore.Engine{Store: s}).Garbage(nil)}})
				if !errors.Is(err, failure.Damaged) || failure.Code(err) != 5 || !exists(s.BlobPath(orphan)) {
					t.Errorf("gc: %v (exit %d); an orphan is there: %v", err, failure.Code(err), exists(s.BlobPath(orphan)))
				}
			})
		}
	}
}

// TestWhatOwnersWriteIsReadWhole: the other side of the same coin.
func TestWhatOwnersWriteIsReadWhole(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	mustPublish(t, s, "kept")
	image1, image2, image3 := digest.FromString("1"), digest.FromString("2"), digest.FromString("3")
	for _, d := range []digest.Digest{image1, image2, image3} {
		if err := os.WriteFile(s.ImageBlobPath(d), []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	writeVM(t, s, someVM, image1)
	writeJSON(t, s.Path("images", "disk.json"), image.Record{ID: image2, Name: "disk"})
	writeJSON(t, s.Path("pins", "p.json"), map[string]any{"digests": []digest.Digest{image3}})
	rep := collect(t, s, Options{Explain: true})
	if len(rep.Removed) > 0 {
		t.Errorf("removed %+v", rep.Removed)
	}
	holders := map[string]bool{}
	for _, k := range rep.Kept {
		if k.Kind == "image" {
			holders[k.Holders[0]] = true
		}
	}
	for _, want := range []string{"vm web-0123 (" + someVM + ")", "image disk", "pin p"} {
		if !holders[want] {
			t.Errorf("%s holds nothing: %v", want, holders)
		}
	}
}

// TestNobodyCollectsWithoutAllSources.
func TestNobodyCollectsWithoutAllSources(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	all := sources(s)
	for i := range all {
		o := Options{Sources: append(append([]garbage.Source{}, all[:i]...), all[i+1:]...)}
		if _, err := Collect(t.Context(), s, o); err == nil {
			t.Errorf("gc without the roots in %s", all[i].Folder)
		}
	}
}

// TestASuspendedVMHoldsItsFolder, though its record.json is lost: suspend.json has
// one in it.
func TestASuspendedVMHoldsItsFolder(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	sn, d := mustPublish(t, s, "ram"), digest.FromString("image")
	if err := errors.Join(os.Mkdir(s.Path("vms", someVM), 0o700), os.WriteFile(s.ImageBlobPath(d), nil, 0o400)); err != nil {
		t.Fatal(err)
	}
	writeJSON(t, s.Path("vms", someVM, sleep.File), vm.Sleep{Version: 1, Snapshot: sn.ID, Record: &vm.Record{Version: 1, ID: someVM, Images: []digest.Digest{d}}})
	if rep := collect(t, s, Options{}); len(rep.Removed) > 0 {
		t.Errorf("removed %+v", rep.Removed)
	}
}

// TestASleeperWithoutItsSnapshot ends the run: something was lost that a sweep
// would make worse.
func TestASleeperWithoutItsSnapshot(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	orphan := orphans(t, s, "orphan")
	if err := os.Mkdir(s.Path("vms", someVM), 0o700); err != nil {
		t.Fatal(err)
	}
	writeJSON(t, s.Path("vms", someVM, sleep.File), vm.Sleep{Version: 1, Snapshot: store.ID("f" + someVM[1:]), Record: &vm.Record{Version: 1, ID: someVM, Name: "web"}})
	_, err := run(t.Context(), s, Options{})
	if !errors.Is(err, failure.Damaged) || !strings.Contains(failure.HintOf(err), "vm start --cold web") || !exists(s.BlobPath(orphan)) {
		t.Errorf("gc: %v (%s)", err, failure.HintOf(err))
	}
}
