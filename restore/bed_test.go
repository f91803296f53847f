package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// bed is a store whose VMs run on the simulator, and what a VM is made of.
type bed struct {
	*Engine
	saver             *capture.Saver
	dir, kernel, disk string
}

// quick is the patience where a VMM says nothing, or refuses again and again.
const quick = patience.Patience(300 * time.Millisecond)

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cocoon needs root")
	}
	dir, err := os.MkdirTemp("", "cx") // short: paths of sockets end at 108 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	st, err := store.Open(t.Context(), filepath.Join(dir, "root"), store.Options{Create: true, Veto: sleep.Veto})
	must(t, err)
	b := &bed{dir: dir, kernel: filepath.Join(dir, "guest.elf"), disk: filepath.Join(dir, "disk.raw")}
	must(t, errors.Join(guest.WriteFile(b.kernel), os.WriteFile(b.disk, make([]byte, 1<<20), 0o600)))
	b.over(t, st)
	t.Cleanup(func() { b.endAll(t) })
	return b
}

// over has the engines over a store, with a simulator that is told words.
func (b *bed) over(t *testing.T, st *store.Store, words ...string) {
	binary := chsnaptest.Told(t, b.dir, append(words, "CHSIM_FILL=1M")...)
	images := image.New(st)
	o := vm.Options{RunDir: filepath.Join(b.dir, "run"), Binary: binary}
	if len(words) > 0 {
		o.Patience = quick
	}
	vms := vm.New(st, images, o)
	b.saver = &capture.Saver{Store: st, VMs: vms}
	b.Engine = &Engine{
		Store: st, VMs: vms, Images: images, CacheCap: ramcache.AtMost(gib),
		Host: func(ctx context.Context) (Host, error) { return ReadHost(ctx, binary) },
	}
}

// told is another command of the same store, whose VMMs are told something.
func (b *bed) told(t *testing.T, words ...string) *bed {
	other := *b
	other.over(t, b.Store, words...)
	return &other
}

func (b *bed) endAll(t *testing.T) {
	ctx := context.Background()
	all, err := b.VMs.Standing(ctx)
	for _, s := range all {
		err = errors.Join(err, b.VMs.Kill(ctx, s.ID))
	}
	if err != nil {
		t.Error(err)
	}
}

// boot makes a VM that runs, and waits until its guest counts.
func (b *bed) boot(t *testing.T, name string) *vm.Record {
	t.Helper()
	rec, err := b.VMs.Create(t.Context(), vm.CreateSpec{
		Name: name, CPUs: 1, MemoryBytes: 32 * mib, Kernel: b.kernel, Disks: []vm.DiskSpec{{Path: b.disk}}, Start: true,
	})
	must(t, err)
	b.counts(t, name, 0)
	return rec
}

// counts waits until a guest has counted past a number, which neither its RAM nor its
// disk contradicts.
func (b *bed) counts(t *testing.T, name string, past uint32) (now uint32) {
	t.Helper()
	rec, err := b.VMs.Get(t.Context(), name)
	must(t, err)
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		log, _ := os.ReadFile(b.VMs.SerialPath(rec.ID))
		if bad := guest.Bad(log); len(bad) > 0 {
			t.Fatalf("%s: %s", name, bad[0])
		}
		if now, _, ok := guest.LastTick(log); ok && uint32(now) > past {
			return uint32(now)
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not count past %d: %s", name, past, log)
		}
	}
}

func (b *bed) save(t *testing.T, name, as string) *store.Snapshot {
	t.Helper()
	sn, err := b.saver.Save(t.Context(), capture.Request{VM: name, Name: as})
	must(t, err)
	return sn
}

func (b *bed) suspend(t *testing.T, name string) {
	t.Helper()
	rec, err := b.VMs.Get(t.Context(), name)
	must(t, err)
	_, err = b.saver.Suspend(t.Context(), name, capture.Request{SleepOf: sleep.LabelOf(rec.ID, rec.Woken)})
	must(t, err)
}

// plan of a snapshot that is rebuilt as a VM of a name.
func (b *bed) plan(t *testing.T, ref, name string, mode Mode) *Plan {
	t.Helper()
	p, err := b.NewPlan(t.Context(), Request{Snapshot: ref, Name: name, Mode: mode})
	must(t, err)
	return p
}

// traces are what VMs leave in the store and on the host, by their paths.
func (b *bed) traces(t *testing.T) string {
	t.Helper()
	me, err := b.Store.Owner(t.Context())
	must(t, err)
	id := strings.Repeat("[0-9a-f]", 32)
	var found []string
	for _, glob := range []string{
		b.Store.Path("vms", id), b.Store.Path("vms", id, "*"), b.Store.Path("journals", "*"), b.Store.Path("leases", "*"), filepath.Join(b.dir, "run", id),
		filepath.Join(b.dir, "run", id, "*.sock"),
		filepath.Join(owner.StagingFolder, "cocoon-*"+me.Tag()+"*"),
	} {
		paths, err := filepath.Glob(glob)
		must(t, err)
		found = append(found, paths...)
	}
	all, err := b.VMs.Standing(t.Context())
	must(t, err)
	for _, s := range all {
		if len(s.PIDs) > 0 {
			found = append(found, "a VMM of "+s.ID)
		}
	}
	return strings.Join(found, "\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused: the error is of a class (nil is any), with words of its text, its hint and
// of what holds.
func refused(t *testing.T, what string, err, class error, words ...string) {
	t.Helper()
	if err == nil || class != nil && !errors.Is(err, class) {
		t.Errorf("%s: %v, want %v", what, err, class)
		return
	}
	said := err.Error() + " / " + failure.HintOf(err) + " / " + failure.UndoneOf(err)
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("%s: %q does not say %q", what, said, w)
		}
	}
}
