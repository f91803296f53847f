package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/store/keyring"
)

// examine finds what one check says of a host.
func examine(t *testing.T, h Host, name string) Finding {
	t.Helper()
	if h.RootDir == "" {
		h.RootDir = t.TempDir()
	}
	if h.VMMVersion == nil {
		h.VMMVersion = func(context.Context) (string, error) { return "53.0.0", nil }
	}
	if h.IndexOK == nil {
		h.IndexOK = func(context.Context) error { return nil }
	}
	if h.Sealing == nil {
		h.Sealing = func() (*keyring.Key, error) { return nil, nil }
	}
	for _, f := range h.Examine(t.Context()) {
		if f.Status != OK && f.Remedy == "" {
			t.Errorf("%s: %s without a remedy", f.Name, f.Status)
		}
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no check %q", name)
	return Finding{}
}

func unkept(ids []string, err error) Host {
	return Host{Unkept: func(context.Context) ([]string, error) { return ids, err }}
}

func shared(names []string, err error) Host {
	return Host{SharedNames: func(context.Context) ([]string, error) { return names, err }}
}

func TestFindings(t *testing.T) {
	version := func(v string, err error) Host {
		return Host{VMMVersion: func(context.Context) (string, error) { return v, err }}
	}
	nets, bins := t.TempDir(), t.TempDir()
	for _, f := range []string{filepath.Join(nets, "10-a.conflist"), filepath.Join(bins, "host-local")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		check string
		host  Host
		want  string
	}{
		{"hypervisor", version("53.0.0", nil), OK},
		{"hypervisor", version("52.1", nil), Warn},
		{"hypervisor", version("50.0", nil), Fail},
		{"hypervisor", version("", errors.New("not installed")), Fail},
		{"space", Host{RootDir: "/nowhere/at/all"}, Fail},
		{"index", Host{}, OK},
		{"index", Host{IndexOK: func(context.Context) error { return errors.New("page 7 is torn") }}, Warn},
		{"names", Host{}, OK},
		{"names", shared(nil, nil), OK},
		{"names", shared([]string{"a (1, 2)"}, nil), Warn},
		{"names", shared(nil, errors.New("no such folder")), Warn},
		{"keepers", Host{}, OK},
		{"keepers", unkept(nil, nil), OK},
		{"keepers", unkept([]string{"a"}, nil), Warn},
		{"keepers", unkept(nil, errors.New("no such folder")), Warn},
		{"encryption", Host{}, OK},
		{"encryption", Host{Sealing: func() (*keyring.Key, error) { return keyring.FromSecret([32]byte{1}), nil }}, OK},
		{"encryption", Host{Sealing: func() (*keyring.Key, error) { return nil, errors.New("no key file") }}, Fail},
		{"cni networks", Host{CNIConfDir: []string{"/nowhere", nets}}, OK},
		{"cni networks", Host{CNIConfDir: []string{bins}}, Warn},
		{"cni plugins", Host{CNIBinDir: []string{"/nowhere", bins}}, OK},
		{"cni plugins", Host{CNIBinDir: []string{nets}}, Warn},
	} {
		if got := examine(t, tc.host, tc.check); got.Status != tc.want {
			t.Errorf("%s of %+v: %+v, want %s", tc.check, tc.host, got, tc.want)
		}
	}
}
