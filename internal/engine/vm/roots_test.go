package vm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// TestANewerRecordIsReadButNotRewritten: this program shows what it knows of such
// a VM, and leaves it alone, since its next write would forget the rest.
func TestANewerRecordIsReadButNotRewritten(t *testing.T) {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	m := New(st, image.New(st), Options{RunDir: t.TempDir()})
	id := "0123456789abcdef0123456789abcdef"
	b, err := json.Marshal(Record{Version: 1, ID: id, Name: "web", State: "stopped"})
	newer := strings.Replace(string(b), `{"version":1`, `{"version":1,"overlay":"x"`, 1)
	if err := errors.Join(err, os.Mkdir(m.Dir(id), 0o700), os.WriteFile(m.recordPath(id), []byte(newer), 0o600)); err != nil {
		t.Fatal(err)
	}
	if rec, err := m.Get(t.Context(), "web"); err != nil || rec.ID != id {
		t.Errorf("inspect: %v", err)
	}
	if _, _, err := m.Lock(t.Context(), "web", "test"); !errors.Is(err, failure.Incompatible) || failure.Code(err) != 6 || failure.HintOf(err) == "" {
		t.Errorf("a verb that changes it: %v", err)
	}
	if after, err := os.ReadFile(m.recordPath(id)); err != nil || string(after) != newer {
		t.Errorf("its record became %s (%v)", after, err)
	}
	if _, err := readRoot(m.recordPath(id)); !errors.Is(err, failure.Damaged) {
		t.Errorf("as a root: %v", err)
	}
}

// TestEveryDigestOfARecordIsARoot: what is written of a VM, awake or asleep, is read
// by gc with the same decoder, and whatever digest is anywhere in it is held.
func TestEveryDigestOfARecordIsARoot(t *testing.T) {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	m := New(st, image.New(st), Options{RunDir: t.TempDir()})
	rec := &Record{Version: recordVersion, ID: "0123456789abcdef0123456789abcdef", Name: "web"}
	var want []digest.Digest
	setDigests(reflect.ValueOf(rec).Elem(), &want)
	rec.Sleep = nil
	if len(want) < 5 { // Kernel, Firmware, Initramfs, Disks, Images
		t.Fatalf("only %d digests in a record", len(want))
	}
	if err := errors.Join(os.Mkdir(m.Dir(rec.ID), 0o700), m.save(rec)); err != nil {
		t.Fatal(err)
	}
	asleep := Sleep{Version: sleep.Version, Snapshot: "fedcba9876543210fedcba9876543210", Record: rec}
	b, err := json.Marshal(asleep)
	if err := errors.Join(err, sleep.Document.Write(m.SleepPath(rec.ID), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	src := Garbage(st)
	files, err := src.Files()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		root, err := src.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range want {
			if !slices.Contains(root.Digests, d) {
				t.Errorf("%s: %s is not held", filepath.Base(path), d)
			}
		}
		if root.VM != rec.ID || path != src.Find(root.Kind, rec.ID) || (root.Kind == garbage.Asleep) != slices.Contains(root.Snapshots, string(asleep.Snapshot)) {
			t.Errorf("%s: %+v", path, root)
		}
	}
}

// setDigests gives every digest in a value one of its own, and every list and pointer
// on the way an element.
func setDigests(v reflect.Value, all *[]digest.Digest) {
	switch {
	case v.Type() == reflect.TypeFor[digest.Digest]():
		d := digest.FromString(strconv.Itoa(len(*all)))
		v.SetString(string(d))
		*all = append(*all, d)
	case v.Type() == reflect.TypeFor[*Sleep](), v.Type() == reflect.TypeFor[json.RawMessage]():
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		setDigests(v.Elem(), all)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		setDigests(v.Index(0), all)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				setDigests(v.Field(i), all)
			}
		}
	}
}
