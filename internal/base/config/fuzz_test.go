package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// FuzzLoad: a file is refused as a mistake of its author, or every value is
// taken from it or is the default.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("rootDir: /f\nlogLevel: warn\nprune:\n  keepDaily: 7\n  keepLabel: [hold, why=release]\n"))
	f.Add([]byte("rootDri: /f\n"))
	f.Add([]byte("keyFile: ':/k'\nprune: {keepLabel: ['why=a,b', ' x', '']}\n"))
	f.Add([]byte("prune: {keepLabel: ['why=a,b', hold], keepLast: 0}\n"))
	f.Add([]byte("rootDir: &a x\nrunDir: *a\n"))
	f.Add([]byte(`{"vmmTimeout": "1m", "prune": {"max": -1}}`))
	path := filepath.Join(f.TempDir(), "c.yaml")
	noEnv := func(string) (string, bool) { return "", false }
	f.Fuzz(func(t *testing.T, b []byte) {
		load := func(b []byte) (map[string]Value, error) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return Load(nil, noEnv, path)
		}
		got, err := load(b)
		if err != nil {
			if !errors.Is(err, failure.Usage) {
				t.Errorf("%v is no usage error", err)
			}
			return
		}
		var whole map[string]any
		prune := map[string]any{}
		if err := yaml.Unmarshal(b, &whole); err != nil {
			t.Fatalf("taken, though it is no YAML: %v", err)
		}
		for _, s := range Settings() {
			v := got[s.Key]
			if v.Origin == "default" && v.Value != s.Default || v.Origin != "default" && v.Origin != "file "+path {
				t.Errorf("%+v", v)
			}
		}
		if section, ok := whole["prune"].(map[string]any); ok {
			prune = section
		}
		for key := range whole { // none is passed over in silence
			if !isSetting(key) && !strings.EqualFold(key, "prune") {
				t.Errorf("key %q was passed over", key)
			}
		}
		for key := range prune {
			if !isSetting("prune." + key) {
				t.Errorf("key prune.%s was passed over", key)
			}
		}
		again, err := load(written(got))
		if err != nil {
			t.Fatalf("its own values are refused: %v\n%s", err, written(got))
		}
		for key, v := range got {
			if again[key].Value != v.Value || !slices.Equal(again[key].List, v.List) {
				t.Errorf("%s: %q %q, written again %q %q", key, v.Value, v.List, again[key].Value, again[key].List)
			}
			for _, x := range v.List {
				if strings.TrimSpace(x) == "" {
					t.Errorf("%s has an empty element: %q", key, v.List)
				}
			}
		}
	})
}

func isSetting(key string) bool {
	return slices.ContainsFunc(Settings(), func(s Setting) bool { return strings.EqualFold(s.Key, key) })
}

// written is a file with the values that came from one.
func written(values map[string]Value) []byte {
	var top, prune strings.Builder
	for _, s := range Settings() {
		v := values[s.Key]
		if v.Origin == "default" {
			continue
		}
		key, inPrune := strings.CutPrefix(s.Key, "prune.")
		switch {
		case !inPrune:
			fmt.Fprintf(&top, "%s: %s\n", key, quoted(v.Value))
		case key == "keepLabel":
			fmt.Fprintf(&prune, "  keepLabel: %s\n", quoted(v.List))
		case key == "keepWithin" || key == "groupBy" || key == "maxStoreSize":
			fmt.Fprintf(&prune, "  %s: %s\n", key, quoted(v.Value))
		default:
			fmt.Fprintf(&prune, "  %s: %s\n", key, v.Value)
		}
	}
	if prune.Len() > 0 {
		return []byte(top.String() + "prune:\n" + prune.String())
	}
	return []byte(top.String())
}

// quoted is JSON, which is YAML too.
func quoted(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // text always can be
	}
	return string(b)
}
