package vm

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
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store"
)

// bed is a store whose VMs run on the simulator, and what a VM is made of.
type bed struct {
	*Manager
	kernel, disk string
}

// newBed has the simulator that is told by words such as "CHSIM_FAIL=vm.boot=fail"
// what goes wrong with it. Whatever runs at the end is ended.
func newBed(t *testing.T, o Options, words ...string) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cocoon needs root")
	}
	dir, err := os.MkdirTemp("", "cv") // short: paths of sockets end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	st, err := store.Open(t.Context(), filepath.Join(dir, "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.RunDir, o.Binary, o.Keeper = filepath.Join(dir, "run"), chsnaptest.Told(t, dir, append(words, "CHSIM_FILL=1M")...), keeper.Program(self)
	b := &bed{New(st, image.New(st), o), filepath.Join(dir, "guest.elf"), filepath.Join(dir, "disk.raw")}
	if err := errors.Join(guest.WriteFile(b.kernel), os.WriteFile(b.disk, make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.endAll(t) })
	return b
}

// told is another command of the same store, whose VMMs are told something else.
func (b *bed) told(t *testing.T, words ...string) *bed {
	t.Helper()
	o := b.o
	o.Binary = chsnaptest.Told(t, filepath.Dir(b.kernel), append(words, "CHSIM_FILL=1M")...)
	return &bed{New(b.st, b.images, o), b.kernel, b.disk}
}

// endAll ends what still runs, known to a record or not.
func (b *bed) endAll(t *testing.T) {
	ctx := context.Background()
	ids, err := b.run.IDs()
	for _, id := range ids {
		if kerr := b.Kill(ctx, id); !errors.Is(kerr, failure.Damaged) {
			err = errors.Join(err, kerr)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// create makes a VM of a kernel and a disk.
func (b *bed) create(t *testing.T, name string, start bool) *Record {
	t.Helper()
	rec, err := b.Create(t.Context(), CreateSpec{
		Name: name, CPUs: 1, MemoryBytes: 32 << 20, Kernel: b.kernel, Disks: []DiskSpec{{Path: b.disk}}, Start: start,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// get is what a VM is now.
func (b *bed) get(t *testing.T, name string) *Record {
	t.Helper()
	rec, err := b.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// state is that which its VMM says.
func (b *bed) state(t *testing.T, name string) State {
	t.Helper()
	rec := b.get(t, name)
	b.Look(t.Context(), rec)
	return rec.State
}

// quick is the patience of a test in which a VMM says nothing.
const quick = patience.Patience(200 * time.Millisecond)

// refused: the error is of a class, with words of its text and of its hint.
func refused(t *testing.T, what string, err, class error, words ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want %v", what, err, class)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+" / "+failure.HintOf(err), w) {
			t.Errorf("%s: %q (hint %q) does not say %q", what, err, failure.HintOf(err), w)
		}
	}
}
