package refs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// large gives an index that has branches, its file, and what it holds.
func large(tb testing.TB) (*DB, []byte, map[string][]digest.Digest) {
	tb.Helper()
	model := map[string][]digest.Digest{}
	for i := range 120 {
		model[fmt.Sprint("s", i)] = []digest.Digest{dig(i % 40), dig((i + 1) % 40)}
	}
	db := newTest(tb)
	if err := db.Rebuild(tb.Context(), entriesOf(model)); err != nil {
		tb.Fatal(err)
	}
	b, err := os.ReadFile(db.path)
	if err != nil {
		tb.Fatal(err)
	}
	return db, b, model
}

// change is a byte of the file that is overwritten; changes are written one
// behind the other.
type change struct {
	page, at uint16
	to       byte
}

func (c change) append(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, c.page), c.at), c.to)
}

func apply(b, changes []byte) []byte {
	b = slices.Clone(b)
	for ; len(changes) >= 5; changes = changes[5:] {
		at := int(binary.LittleEndian.Uint16(changes))*4096 + int(binary.LittleEndian.Uint16(changes[2:]))%4096
		b[at%len(b)] = changes[4]
	}
	return b
}

// pagesOf lists the pages of a kind.
func pagesOf(b []byte, kind uint16) (found []uint16) {
	for at := 0; at < len(b); at += 4096 {
		if binary.LittleEndian.Uint16(b[at+8:]) == kind {
			found = append(found, uint16(at/4096))
		}
	}
	return found
}

// harmful are changes that would end the program, and not by a panic.
func harmful(tb testing.TB, b []byte) map[string][]byte {
	tb.Helper()
	branches, lists := pagesOf(b, branchPage), pagesOf(b, freelistPage)
	if len(branches) == 0 || len(lists) == 0 {
		tb.Fatalf("branches %v, lists of free pages %v", branches, lists)
	}
	var loop, endless []byte
	for _, p := range branches {
		for i := range binary.LittleEndian.Uint16(b[int(p)*4096+10:]) {
			loop = change{p, headBytes + i*elementBytes + 8, byte(p)}.append(loop)
		}
	}
	for _, p := range lists {
		endless = change{p, 10, 0xff}.append(change{p, 11, 0xff}.append(endless))
		endless = change{p, headBytes + 5, 0x7f}.append(endless)
	}
	var vast []byte
	for _, p := range pagesOf(b, leafPage) {
		if b[int(p)*4096+headBytes]&bucketFlag != 0 {
			continue // no entries
		}
		for i := range binary.LittleEndian.Uint16(b[int(p)*4096+10:]) {
			vast = change{p, headBytes + i*elementBytes + 15, 0x71}.append(vast)
		}
	}
	return map[string][]byte{"a branch that leads back to itself": loop, "an endless list of free pages": endless, "values of gigabytes": vast}
}

func TestWhatWouldEndTheProgramIsDamage(t *testing.T) {
	db, whole, model := large(t)
	for name, changes := range harmful(t, whole) {
		if err := os.WriteFile(db.path, apply(whole, changes), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Holders(t.Context(), dig(0)); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := db.Record(t.Context(), Entry{Holder: Holder{"vm", "x", ""}}); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: write: %v", name, err)
		}
		if err := db.Rebuild(t.Context(), entriesOf(model)); err != nil {
			t.Fatal(err)
		}
		compare(t, db, model)
	}
}

// FuzzFile: an index of which any bytes were overwritten answers rightly, or that
// it is damaged, and can be written or is damaged.
func FuzzFile(f *testing.F) {
	db, whole, model := large(f)
	f.Add([]byte{}, byte(0))
	f.Add(change{2, 8, 4}.append(change{3, 8, 1}.append(nil)), byte(1))
	for _, changes := range harmful(f, whole) {
		f.Add(changes, byte(2))
	}
	f.Fuzz(func(t *testing.T, changes []byte, of byte) {
		if err := os.WriteFile(db.path, apply(whole, changes), 0o600); err != nil {
			t.Fatal(err)
		}
		d := dig(int(of % 40))
		got, err := db.Holders(t.Context(), d)
		if err != nil && !errors.Is(err, failure.Damaged) {
			t.Errorf("%v is not damage", err)
		}
		for _, h := range got {
			if err == nil && !slices.Contains(model[h.ID], d) {
				t.Errorf("%v does not hold %s", h, d)
			}
		}
		if err := db.Forget(t.Context(), Holder{"snapshot", fmt.Sprint("s", of%120), ""}); err != nil && !errors.Is(err, failure.Damaged) {
			t.Errorf("write: %v is not damage", err)
		}
	})
}
