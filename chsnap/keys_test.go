package chsnap

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// knows tells whether the table says what becomes of a path of keys, or of an
// object that it is in and that is refused as a whole.
func (ks keys) knows(path string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	k, ok := ks[name]
	return ok && (!deeper || k.fate == refused || k.in.knows(rest))
}

// TestEveryKeyOfTheVMMIsDecided: the lists are the names of all keys of VmConfig
// in the interface descriptions of these versions. For a new version, add its
// list: what it has more fails here, not where a user saves a VM.
func TestEveryKeyOfTheVMMIsDecided(t *testing.T) {
	lists, err := filepath.Glob("testdata/openapi-*.txt")
	if err != nil || len(lists) < 2 {
		t.Fatalf("lists %v (%v)", lists, err)
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(string(b)) {
			if !configKeys.knows(path) {
				t.Errorf("%s: nobody has decided what becomes of %s when a VM is rebuilt", list, path)
			}
		}
	}
}

// TestEveryRefusedKeySaysWhatToDo, under any name that the VMM gives it.
func TestEveryRefusedKeySaysWhatToDo(t *testing.T) {
	for name, k := range configKeys {
		if k.fate != refused {
			continue
		}
		c, err := ParseConfig([]byte(`{"payload":{"kernel":"/k"},"` + name + `":[{"x":1}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if p := c.Unsupported(); len(p) != 1 || p[0].Device == "" || p[0].Reason == "" || p[0].Remedy == "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestAKeyThatSaysNothingIsNoProblem: a later VMM writes its new keys into every
// configuration, off as they are by default.
func TestAKeyThatSaysNothingIsNoProblem(t *testing.T) {
	for value, refused := range map[string]bool{
		"null": false, "false": false, "[]": false, "{}": false, "true": true, "0": true, `"x"`: true, `[{}]`: true,
	} {
		for _, doc := range []string{
			`{"payload":{"kernel":"/k"},"later":` + value + `}`,
			`{"payload":{"kernel":"/k","later":` + value + `}}`,
			`{"payload":{"kernel":"/k"},"disks":[{"id":"d"},{"id":"e","later":` + value + `}]}`,
			`{"payload":{"kernel":"/k"},"memory":{"size":4096,"zones":[{"id":"z","size":1,"later":` + value + `}]}}`,
		} {
			c, err := ParseConfig([]byte(doc))
			if err != nil {
				t.Fatal(err)
			}
			p := c.Unsupported()
			if (len(p) > 0) != refused || refused && !strings.Contains(p[0].Device, "later") {
				t.Errorf("%s: %+v, want refused %v", doc, p, refused)
			}
		}
	}
}

// keysOf lists the paths of all keys in a document.
func keysOf(v any, path string, out map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			out[strings.TrimPrefix(path+"."+name, ".")] = true
			keysOf(inner, path+"."+name, out)
		}
	case []any:
		for _, e := range v {
			keysOf(e, path, out)
		}
	}
}

// TestNoKeyThatAVMMWroteIsUnknown: what real ones wrote has keys that their
// interface descriptions lack.
func TestNoKeyThatAVMMWroteIsUnknown(t *testing.T) {
	for _, dir := range folders(t) {
		_, _, b, _ := documents(t, dir)
		var doc any
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		paths := map[string]bool{}
		keysOf(doc, "", paths)
		for path := range paths {
			if !configKeys.knows(path) {
				t.Errorf("%s: %s is unknown", dir, path)
			}
		}
	}
}
