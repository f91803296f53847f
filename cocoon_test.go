package cocoon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon"
	"github.com/cocoonv2/cocoon/gc/policy"
)

// create boots the test's guest.
func (p place) create(t *testing.T, name string) {
	t.Helper()
	_, err := p.host.Create(ctx, cocoon.VM{Name: name, MemoryBytes: 64 << 20, Kernel: "guest.elf", Disks: []string{"disk.raw"}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestACallerSavesAndRebuilds knows nothing but the interface.
func TestACallerSavesAndRebuilds(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "web")
	before := p.counts(t, "web", 3)
	var caller cocoon.Hypervisor = p.host
	if err := caller.Snapshot(ctx, "web", "one"); err != nil {
		t.Fatal(err)
	}
	p.counts(t, "web", before+3) // the VM goes on
	if err := errors.Join(p.host.Stop(ctx, "web"), p.host.RemoveVM(ctx, "web")); err != nil {
		t.Fatal(err)
	}
	again, err := caller.Restore(ctx, "one", "again")
	if err != nil {
		t.Fatal(err)
	}
	p.counts(t, "again", before)
	if serial, _ := os.ReadFile(again.SerialLog); bytes.Contains(serial, []byte("BOOT")) {
		t.Error("the rebuilt VM has booted")
	}
}

// TestBothDoorsOpenOneHouse: what one makes the other has.
func TestBothDoorsOpenOneHouse(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "web")
	command := func(args ...string) string {
		t.Helper()
		out, err := p.exec(filepath.Join(bed, "cocoon"), args)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	id := command("snapshot", "create", "web", "by-command")
	sn, err := p.host.Inspect(ctx, "by-command")
	if err != nil || sn.ID != id || sn.VM != "web" || sn.State != "ready" || sn.MemoryBytes != 64<<20 {
		t.Errorf("%+v, %v; the command said %s", sn, err, id)
	}
	saved, err := p.host.Save(ctx, "web", cocoon.SaveOptions{Name: "by-program", Labels: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if found, err := p.host.Inspect(ctx, saved.ID); err != nil || !reflect.DeepEqual(found, saved) {
		t.Errorf("saved %+v, found %+v, %v", saved, found, err)
	}
	for format, want := range map[string]string{"{{.Name}} {{.Parent}}": "by-program " + id + "\nby-command", "{{.State}}": "ready\nready"} {
		if got := command("snapshot", "list", "--sort=-created", "--format", format); strings.ReplaceAll(got, " \n", "\n") != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

// TestErrorsHaveTheClassesOfExitCodes, whichever call they come from, and say in
// %+v what can be done.
func TestErrorsHaveTheClassesOfExitCodes(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "web")
	h := p.host
	if err := h.Snapshot(ctx, "web", "one"); err != nil {
		t.Fatal(err)
	}
	kept, err := h.Save(ctx, "web", cocoon.SaveOptions{Name: "kept", Protect: true})
	if err != nil || !kept.Protected {
		t.Fatalf("%+v, %v", kept, err)
	}
	restored := func(ref, name string) error { _, err := h.Restore(ctx, ref, name); return err }
	saved := func(o cocoon.SaveOptions) error { _, err := h.Save(ctx, "web", o); return err }
	_, inspect := h.Inspect(ctx, "nothing")
	_, inPlace := h.RestoreInPlace(ctx, "web", "nothing", cocoon.RestoreOptions{})
	_, push := h.Push(ctx, "one", "127.0.0.1:1/no tag")
	_, created := h.Create(ctx, cocoon.VM{Name: "disk", Kernel: "guest.elf", Disks: []string{"disk.raw,slowly"}})
	_, opened := cocoon.Open(ctx, cocoon.Options{RootDir: filepath.Join(t.TempDir(), "none")})
	_, setting := cocoon.Open(ctx, cocoon.Options{Settings: map[string]string{"vmTimeout": "1s"}})
	unmade := filepath.Join(t.TempDir(), "unmade")
	_, value := cocoon.Open(ctx, cocoon.Options{RootDir: unmade, Create: true, Settings: map[string]string{"vmmTimeout": "soon"}})
	for what, c := range map[string]struct{ err, want error }{
		"save nobody":        {h.Snapshot(ctx, "nobody", ""), cocoon.NotFound},
		"name taken":         {h.Snapshot(ctx, "web", "one"), cocoon.Conflict},
		"no such snapshot":   {restored("nothing", "x"), cocoon.NotFound},
		"VM name taken":      {restored("one", "web"), cocoon.Conflict},
		"bad VM name":        {restored("one", "no/name"), cocoon.Usage},
		"bad mode":           {saved(cocoon.SaveOptions{Mode: "fast"}), cocoon.Usage},
		"reserved label":     {saved(cocoon.SaveOptions{Labels: map[string]string{"cocoon.suspend": "x"}}), cocoon.Usage},
		"inspect nothing":    {inspect, cocoon.NotFound},
		"in place":           {inPlace, cocoon.NotFound},
		"push":               {push, cocoon.Usage},
		"disk option":        {created, cocoon.Usage},
		"remove a protected": {h.Remove(ctx, "kept"), cocoon.Conflict},
		"remove a running":   {h.RemoveVM(ctx, "web"), cocoon.Conflict},
		"wake a running":     {h.Wake(ctx, "web", cocoon.RestoreOptions{}), cocoon.Conflict},
		"no store":           {opened, cocoon.NotFound},
		"unknown setting":    {setting, cocoon.Usage},
		"unreadable setting": {value, cocoon.Usage},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want class %v", what, c.err, c.want)
		}
	}
	err = h.Remove(ctx, "kept")
	if plain, more := fmt.Sprint(err), fmt.Sprintf("%+v", err); !strings.HasPrefix(more, plain) || len(more) == len(plain) {
		t.Errorf("%%+v adds nothing to %q", plain)
	}
	if _, err := os.Stat(unmade); err == nil {
		t.Error("a store was made with settings that cannot be")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Snapshot(cancelled, "web", "two"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestAProgramIsToldOfItsOwnCalls, not of flags.
func TestAProgramIsToldOfItsOwnCalls(t *testing.T) {
	p := newPlace(t, nil)
	_, opened := cocoon.Open(ctx, cocoon.Options{RootDir: filepath.Join(t.TempDir(), "none")})
	_, both := p.host.Create(ctx, cocoon.VM{Name: "x", Kernel: "guest.elf", Firmware: "guest.elf"})
	p.create(t, "web")
	if err := p.host.Suspend(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	suspended := p.host.Stop(ctx, "web")
	for err, want := range map[error]string{
		opened:    "Options.Create makes one",
		both:      "leave out VM.Kernel or VM.Firmware",
		suspended: "Host.Wake(web) resumes it; RestoreOptions.Cold of Host.Wake(web) discards its RAM",
	} {
		if said := fmt.Sprintf("%+v", err); !strings.Contains(said, want) || strings.Contains(said, "--") {
			t.Errorf("%q, want %q", said, want)
		}
	}
}

// TestASnapshotOfAnotherVMTakesNoVMsPlace unless that is said.
func TestASnapshotOfAnotherVMTakesNoVMsPlace(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "a")
	p.create(t, "b")
	if err := p.host.Snapshot(ctx, "a", "of-a"); err != nil {
		t.Fatal(err)
	}
	at := p.counts(t, "b", 0)
	if _, err := p.host.RestoreInPlace(ctx, "b", "of-a", cocoon.RestoreOptions{}); !errors.Is(err, cocoon.Conflict) {
		t.Errorf("%v, want a conflict", err)
	}
	p.counts(t, "b", at)
	backup, err := p.host.RestoreInPlace(ctx, "b", "of-a", cocoon.RestoreOptions{FromOther: true, Backup: true})
	if err != nil || backup == "" {
		t.Fatalf("%q, %v", backup, err)
	}
	p.counts(t, "b", 0)
}

// TestProgressIsToldToWhoAsked: calls side by side do not get each other's, and
// each comes to its end.
func TestProgressIsToldToWhoAsked(t *testing.T) {
	var mu sync.Mutex
	heard := map[string]bool{}
	p := newPlace(t, func(o *cocoon.Options) {
		o.Progress = func(what, ref string, done, total int64) {
			mu.Lock()
			defer mu.Unlock()
			if done < 0 || done > total {
				t.Errorf("%s %s: %d of %d", what, ref, done, total)
			}
			heard[what+" "+ref] = heard[what+" "+ref] || done == total
		}
	})
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		p.create(t, name)
		all.Go(func() {
			if err := p.host.Snapshot(ctx, name, "of-"+name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, name := range []string{"a", "b"} {
		all.Go(func() {
			if _, err := p.host.Clone(ctx, "of-"+name, []string{name + "1", name + "2"}, cocoon.RestoreOptions{Mode: "copy"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, want := range []string{"saving a", "saving b", "saving c", "restoring of-a", "restoring of-b"} {
		if ended, ok := heard[want]; !ok || !ended {
			t.Errorf("%s: heard %v, to its end %v", want, ok, ended)
		}
	}
}

// TestPushedAndPulled goes over a registry to another store, where a VM is rebuilt.
func TestPushedAndPulled(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	to := strings.TrimPrefix(s.URL, "http://") + "/vm/web:v1"
	here, there := newPlace(t, nil), newPlace(t, nil)
	here.create(t, "web")
	here.counts(t, "web", 0)
	if err := here.host.Snapshot(ctx, "web", "one"); err != nil {
		t.Fatal(err)
	}
	if digest, err := here.host.Push(ctx, "one", to); err != nil || !strings.HasPrefix(digest, "sha256:") {
		t.Fatalf("%q, %v", digest, err)
	}
	sn, err := there.host.Pull(ctx, to, "pulled")
	if err != nil || sn.Name != "pulled" || sn.VM != "web" {
		t.Fatalf("%+v, %v", sn, err)
	}
	if _, err := there.host.Restore(ctx, "pulled", "again"); err != nil {
		t.Fatal(err)
	}
	there.counts(t, "again", 0)
}

// TestDamageIsNamed, with the snapshots that it affects, and reading finds what
// looking does not.
func TestDamageIsNamed(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "web")
	if err := p.host.Snapshot(ctx, "web", "one"); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(p.root, "blobs", "sha256", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("%v, %v", packs, err)
	}
	largest, size := "", int64(0)
	for _, path := range packs {
		if fi, err := os.Stat(path); err == nil && fi.Size() > size {
			largest, size = path, fi.Size()
		}
	}
	b, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(largest, b, 0o600); err != nil {
		t.Fatal(err)
	}
	affected, err := p.host.Verify(ctx, true, "one")
	if !errors.Is(err, cocoon.Damaged) || len(affected) != 1 || affected[0].Name != "one" {
		t.Errorf("%v, %v", affected, err)
	}
}

// TestPruneSaysWhyBeforeItDoes and Collect tells who holds what stays.
func TestPruneSaysWhyBeforeItDoes(t *testing.T) {
	p := newPlace(t, nil)
	p.create(t, "web")
	for _, name := range []string{"one", "two"} {
		if err := p.host.Snapshot(ctx, "web", name); err != nil {
			t.Fatal(err)
		}
	}
	for _, dryRun := range []bool{true, false} {
		decisions, err := p.host.Prune(ctx, policy.Rules{Last: 1}, dryRun)
		if err != nil || len(decisions) != 2 || len(decisions[0].Reasons) == 0 {
			t.Fatalf("%v, %v", decisions, err)
		}
		all, err := p.host.List(ctx)
		if want := map[bool]int{true: 2, false: 1}[dryRun]; err != nil || len(all) != want {
			t.Errorf("dry run %v: %d snapshots, want %d; %v", dryRun, len(all), want, err)
		}
	}
	plan, err := p.host.Collect(ctx, true)
	if err != nil || len(plan.Kept) == 0 || !plan.DryRun {
		t.Errorf("%+v, %v", plan, err)
	}
}

// TestAProgramThatLivesOnHasNoZombies: the processes that were started of cocoon
// are waited for.
func TestAProgramThatLivesOnHasNoZombies(t *testing.T) {
	p := newPlace(t, func(o *cocoon.Options) { o.Settings = map[string]string{"cacheAhead": "on"} })
	p.create(t, "web")
	if _, err := p.host.Save(ctx, "web", cocoon.SaveOptions{Name: "one", Mode: "file"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.host.Restore(ctx, "one", "again"); err != nil {
		t.Fatal(err)
	}
	for _, c := range children(t) {
		if c.name == "cocoon" { // the keeper of web or of again; the next host gives it another
			_ = unix.Kill(c.pid, unix.SIGKILL) // one that is gone has done its work
		}
	}
	host, err := cocoon.Open(ctx, cocoon.Options{RootDir: p.root, RunDir: p.run})
	if err != nil {
		t.Fatal(err)
	}
	if err := empty(host); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		for _, stat := range children(t) {
			if stat.state == "Z" {
				return "a zombie of " + stat.name
			}
			if stat.name == "cocoon" || strings.HasPrefix(stat.name, "cocoon-chsim") {
				return stat.name + " lives still"
			}
		}
		return ""
	})
}

type process struct {
	pid         int
	name, state string
}

// children are the processes that this one started, ended ones too.
func children(t *testing.T) (all []process) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		name, rest, _ := strings.Cut(string(b[bytes.IndexByte(b, '(')+1:]), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, process{pid, name, f[0]})
		}
	}
	return all
}
