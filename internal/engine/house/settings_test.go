package house

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/programtest"
	"github.com/cocoonv2/cocoon/restore"
)

// settled are the defaults and what is given.
func settled(t *testing.T, given map[string]string) Settings {
	t.Helper()
	s, err := Settle(given, func(string) (string, bool) { return "", false }, os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestASettingIsUnderstoodOrRefused, before anything is done by it.
func TestASettingIsUnderstoodOrRefused(t *testing.T) {
	if err := settled(t, nil).Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for key, c := range map[string]struct{ good, bad string }{ // values, separated by spaces
		"cacheMaxBytes":    {"0 10G", "much -1"},
		"cacheAhead":       {"on off", "true"},
		"vmmTimeout":       {"1s 2m", "soon 0s"},
		"vmStopTimeout":    {"1s 10m", "soon"},
		"vmLandlock":       {"auto on off", "yes"},
		"vmScope":          {"auto on off", "yes"},
		"vmMemoryOverhead": {"none 64M 1G", "63M some"},
		"vmCPUWeight":      {"1 10000", "0 10001 high"},
		"serialLogMax":     {"1G", "1 none"},
		"vmmOOMScoreAdj":   {"0 -1000 1000", "1001 -1001 x"},
	} {
		for _, v := range strings.Fields(c.good) {
			if err := settled(t, map[string]string{key: v}).Check(); err != nil {
				t.Errorf("%s %s: %v", key, v, err)
			}
		}
		for _, v := range strings.Fields(c.bad) {
			if err := settled(t, map[string]string{key: v}).Check(); !errors.Is(err, failure.Usage) || !strings.Contains(err.Error(), key) {
				t.Errorf("%s %s: %v", key, v, err)
			}
		}
	}
	_, err := Settle(map[string]string{"vmTimeout": "1s"}, os.LookupEnv, os.DevNull)
	if !errors.Is(err, failure.Usage) || failure.HintOf(err) == "" {
		t.Errorf("an unknown one: %v", err)
	}
}

// TestSettingsBecomeWhatTheyMean.
func TestSettingsBecomeWhatTheyMean(t *testing.T) {
	s := settled(t, map[string]string{"cacheMaxBytes": "0", "maxStoreSize": "1G", "gcGrace": "0", "vmMemoryOverhead": "none", "vmScope": "on", "vmCPUWeight": "7", "vmStopTimeout": "3s"})
	var o vm.Options
	if err := s.vms(&o); err != nil || o.Scopes != (vm.Scopes{Kind: vm.Scoped, CPUWeight: 7}) || o.StopTimeout != 3*time.Second {
		t.Errorf("%+v, %v", o, err)
	}
	if n, err := s.maxBytes(); err != nil || n != 1<<30 {
		t.Errorf("maxStoreSize 1G: %d, %v", n, err)
	}
	if n, err := settled(t, nil).maxBytes(); err != nil || n != 0 {
		t.Errorf("no maxStoreSize: %d, %v", n, err)
	}
	if limit, err := s.cacheCap(); err != nil || limit.Bytes() != 0 {
		t.Errorf("cacheMaxBytes 0: %d, %v", limit.Bytes(), err)
	}
	if d, err := s.grace(); err != nil || d >= 0 {
		t.Errorf("gcGrace 0: %s, %v", d, err)
	}
	for text, want := range map[string]float64{"50%": 0.5, "100%": 1, "0.5%": 0.005, "0%": 0, "101%": 0, "50": 0, "NaN%": 0, "": 0} {
		if got, err := RepackThreshold("--x", text); got != want || (err == nil) != (want != 0) {
			t.Errorf("threshold %q: %g, %v", text, got, err)
		}
	}
}

// TestADiskIsWhatItsWordsSay: a word that is not understood makes no disk, least of all
// one that is written.
func TestADiskIsWhatItsWordsSay(t *testing.T) {
	for text, want := range map[string]vm.DiskSpec{
		"a.raw": {Path: "a.raw"}, "a.raw,": {Path: "a.raw"}, "a.raw,readonly": {Path: "a.raw", Readonly: true}, "a.raw,readonly=on": {Path: "a.raw", Readonly: true},
		"a.raw,readonly=true": {Path: "a.raw", Readonly: true}, "a.raw,readonly=off": {Path: "a.raw"}, "a.raw,size=1M,readonly=false": {Path: "a.raw", Bytes: 1 << 20},
	} {
		if got, err := ParseDisks([]string{text}); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ",readonly", "a.raw,readonly=yes", "a.raw,readonly=1", "a.raw,size=", "a.raw,size=big", "a.raw,ro"} {
		if got, err := ParseDisks([]string{"b.raw", text}); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// TestNetworksOfAVMThatMoves are those of a snapshot, or a new VM's.
func TestNetworksOfAVMThatMoves(t *testing.T) {
	for text, how := range map[string]string{"keep": restore.Keep, "fresh=lan": restore.Fresh, "none": restore.None, "tap=t0": restore.Tap, "lan,ip=10.0.0.1": restore.Join} {
		if got, err := ParseMoves([]string{text}); err != nil || len(got) != 1 || got[0].How != how {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "lan,ip=x", "tap=", "keep,x"} {
		if got, err := ParseMoves([]string{"keep", text}); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if got, err := ParseWishes([]string{"keep", "lan"}); !errors.Is(err, failure.Usage) {
		t.Errorf("a new VM's: %+v, %v", got, err)
	}
}

// TestAProgramOfAnotherVersionIsRefused, now and not when a guest is paused.
func TestAProgramOfAnotherVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, c := range map[string]struct {
		script string
		class  error
	}{
		"":       {"", failure.NotFound},
		"this":   {"echo " + Protocol, nil},
		"other":  {"echo cocoon processes 0", failure.Incompatible},
		"silent": {"exit 2", failure.Incompatible},
	} {
		path := filepath.Join(dir, "nothing")
		if name != "" {
			path = filepath.Join(dir, name)
			if err := programtest.Write(path, []byte("#!/bin/sh\n"+c.script+"\n")); err != nil {
				t.Fatal(err)
			}
		}
		found, err := FindProgram(t.Context(), path)
		if c.class == nil && (err != nil || found != path) || c.class != nil && (!errors.Is(err, c.class) || failure.HintOf(err) == "") {
			t.Errorf("%q: %q, %v", name, found, err)
		}
	}
	if err := programtest.Write(filepath.Join(dir, "cocoon"), []byte("#!/bin/sh\necho "+Protocol+"\n")); err != nil {
		t.Fatal(err)
	}
	if found, err := FindProgram(t.Context(), ""); err != nil || found != filepath.Join(dir, "cocoon") {
		t.Errorf("on PATH: %q, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := FindProgram(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}
