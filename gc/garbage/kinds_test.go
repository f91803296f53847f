package garbage

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestDocsSayWhenEachKindGoes: the table of docs/gc.md has every kind, and no other.
func TestDocsSayWhenEachKindGoes(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "gc.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\| kind \| goes when \|\n\|---\|---\|\n(.*?)\n\n`).FindSubmatch(b)
	if table == nil {
		t.Fatal("docs/gc.md has no table of kinds")
	}
	var told []Kind
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllSubmatch(table[1], -1) {
		for _, word := range regexp.MustCompile("`[^`]*`|[a-z]+").FindAll(row[1], -1) {
			if word[0] != '`' { // else a place
				told = append(told, Kind(word))
			}
		}
	}
	slices.Sort(told)
	want := Kinds()
	slices.Sort(want)
	if told = slices.Compact(told); !slices.Equal(told, want) {
		t.Errorf("docs/gc.md tells of %q, there are %q", told, want)
	}
}

// TestAKeyNamesOneObject, and what is none has none.
func TestAKeyNamesOneObject(t *testing.T) {
	const id, hex = "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	keys := map[Key]string{}
	for _, name := range []string{"vm:" + id, "snapshot:" + id, "sha256:" + hex} {
		k, ok := ParseKey(name)
		if !ok || keys[k] != "" {
			t.Errorf("%s: %v, the same as %q", name, ok, keys[k])
		}
		keys[k] = name
	}
	for _, name := range []string{"", "vm:", "vm:" + hex, "snapshot:../x", "sha256:" + id, "sha512:" + hex, hex, "vm:" + id[:31] + "g"} {
		if k, ok := ParseKey(name); ok || k != (Key{}) {
			t.Errorf("%q is a key", name)
		}
	}
	if k, ok := BlobKey(hex); !ok || k.Digest().Encoded() != hex {
		t.Errorf("digest %s", k.Digest())
	}
}
