package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("rootDir: /f\nrunDir: /f\nlogLevel: warn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"COCOON_RUN_DIR": "/e", "COCOON_ROOT_DIR": "/e"}
	got, err := Load(map[string]string{"rootDir": "/flag"}, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, path)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]Value{
		"rootDir":   {Key: "rootDir", Value: "/flag", Origin: "flag"},
		"runDir":    {Key: "runDir", Value: "/e", Origin: "environment COCOON_RUN_DIR"},
		"logLevel":  {Key: "logLevel", Value: "warn", Origin: "file " + path},
		"logFormat": {Key: "logFormat", Value: "text", Origin: "default"},
	} {
		if !reflect.DeepEqual(got[key], want) {
			t.Errorf("%s: got %+v, want %+v", key, got[key], want)
		}
	}
}

func TestUnknownKeyIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("rootDri: /f\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(nil, func(string) (string, bool) { return "", false }, path)
	if !errors.Is(err, failure.Usage) {
		t.Fatalf("got %v, want a usage error", err)
	}
}

func TestThePruneSectionIsReadAndAnUnknownRuleInItIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	noEnv := func(string) (string, bool) { return "", false }
	if err := os.WriteFile(path, []byte("prune:\n  keepDaily: 7\n  keepLabel: [hold, why=release]\n  maxStoreSize: 20G\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(nil, noEnv, path)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"prune.keepDaily": "7", "prune.keepLabel": "hold,why=release", "prune.maxStoreSize": "20G",
		"prune.keepLast": "", "prune.groupBy": "vm",
	} {
		if got[key].Value != want {
			t.Errorf("%s: got %q, want %q", key, got[key].Value, want)
		}
	}
	if err := os.WriteFile(path, []byte("prune:\n  keepDialy: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(nil, noEnv, path); !errors.Is(err, failure.Usage) {
		t.Fatalf("got %v, want a usage error", err)
	}
}

func TestAListIsAList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	env := map[string]string{}
	load := func(yaml string) (map[string]Value, error) {
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(nil, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, path)
	}
	for yaml, want := range map[string][]string{
		"prune: {keepLabel: ['why=a,b', hold]}": {"why=a,b", "hold"},
		"prune: {keepLabel: []}":                nil,
		"rootDir: /x":                           nil,
	} {
		got, err := load(yaml)
		if v := got["prune.keepLabel"]; err != nil || !slices.Equal(v.List, want) {
			t.Errorf("%s: %q, %v, want %q", yaml, v.List, err, want)
		}
	}
	env["COCOON_PRUNE_KEEP_LABEL"] = "why=a, keep "
	got, err := load("prune: {keepLabel: ['other,one']}\nkeyFile: '/a: b:/c'")
	if v := got["prune.keepLabel"]; err != nil || !slices.Equal(v.List, []string{"why=a", "keep"}) {
		t.Errorf("%q, %v", v.List, err)
	}
	if v := got["keyFile"]; !slices.Equal(v.List, []string{"/a", " b", "/c"}) {
		t.Errorf("%q", v.List)
	}
	delete(env, "COCOON_PRUNE_KEEP_LABEL")
	for _, yaml := range []string{
		"prune: {keepLabel: ['']}", "prune: {keepLabel: [a, ' ']}", "prune: {keepLabel: [null]}",
		"keyFile: ':/k'", "cniConfDir: '/a:'", "cniBinDir: '/a::/b'",
	} {
		if _, err := load(yaml); !errors.Is(err, failure.Usage) {
			t.Errorf("%s: got %v, want a usage error", yaml, err)
		}
	}
	for _, text := range []string{"a,", " ", ",", "a,,b"} {
		env["COCOON_PRUNE_KEEP_LABEL"] = text
		if _, err := load(""); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: got %v, want a usage error", text, err)
		}
	}
}

// TestTheFileHasAFieldForEverySetting, and no other.
func TestTheFileHasAFieldForEverySetting(t *testing.T) {
	one := 1
	f := file{Prune: pruneSection{KeepLast: &one, KeepHourly: &one, KeepDaily: &one, KeepWeekly: &one, KeepMonthly: &one, KeepYearly: &one, Max: &one}}
	fields := values("", reflect.ValueOf(f))
	for _, s := range Settings() {
		if _, ok := fields[s.Key]; !ok {
			t.Errorf("the file cannot set %s", s.Key)
		}
		delete(fields, s.Key)
	}
	for key := range fields {
		t.Errorf("the file has %s, which is no setting", key)
	}
}
