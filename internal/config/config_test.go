package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
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
		"rootDir":   {"rootDir", "/flag", "flag"},
		"runDir":    {"runDir", "/e", "environment COCOON_RUN_DIR"},
		"logLevel":  {"logLevel", "warn", "file " + path},
		"logFormat": {"logFormat", "text", "default"},
	} {
		if got[key] != want {
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
