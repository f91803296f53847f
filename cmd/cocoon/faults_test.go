//go:build amd64

package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/durabletest"
)

// traced runs a command under a tracer.
func (h *host) traced(args []string, t durabletest.Tracer) (status unix.WaitStatus, stdout, stderr string) {
	h.t.Helper()
	path, err := exec.LookPath("cocoon")
	if err != nil {
		h.t.Fatal(err)
	}
	dir := h.t.TempDir()
	out, oerr := os.Create(filepath.Join(dir, "out"))
	diag, derr := os.Create(filepath.Join(dir, "err"))
	if err := errors.Join(oerr, derr); err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	defer diag.Close()
	status, err = durabletest.Run(durabletest.Program{Path: path, Args: args, Env: h.env, Dir: h.work, Stdout: out, Stderr: diag}, t)
	if errors.Is(err, unix.EPERM) {
		h.t.Skipf("no process can be traced here: %v", err)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	a, aerr := os.ReadFile(out.Name())
	b, berr := os.ReadFile(diag.Name())
	if err := errors.Join(aerr, berr); err != nil {
		h.t.Fatal(err)
	}
	return status, string(a), string(b)
}

// fault is one call site that fails once.
type fault struct {
	call, site string
	how        string
	verdict    durabletest.Verdict
}

// faultsSlice is the share of the faults of some verbs that a plain `go test`
// injects; `make faults` injects all of all (COCOON_FAULTS=1).
const faultsSlice = 16

// TestFaults lets every place of the program that changes a file of the store,
// plain or encrypted, fail once, with EIO, with ENOSPC and by a short write: the command says so or
// had no need of it, what was published is whole, nothing is left, and the
// command works when it is repeated. A fault that is not met fails the test.
func TestFaults(t *testing.T) {
	t.Parallel()
	every, ofAll := uint32(faultsSlice), false
	if v := os.Getenv("COCOON_FAULTS"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 0 {
			t.Fatalf("COCOON_FAULTS=%q: want a number: every how manieth fault is injected", v)
		}
		every, ofAll = uint32(n), true
	}
	vmm := storeVMM(t)
	for _, k := range storeKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			k.faults(t, vmm, every, ofAll)
		})
	}
}

// faults injects every every-th fault, of all verbs or of some.
func (k storeKind) faults(t *testing.T, vmm string, every uint32, ofAll bool) {
	var sites, injected, refused atomic.Int64
	t.Run("injected", func(t *testing.T) {
		for i, v := range k.verbs {
			if !ofAll && i%k.share != 1 {
				continue
			}
			t.Run(v.name, func(t *testing.T) {
				t.Parallel()
				p := newPairs(t, vmm, k.make...)
				all, faults := p.faults(v)
				sites.Add(int64(all))
				for _, f := range faults {
					sum := fnv.New32()
					fmt.Fprint(sum, v.name, f.call, f.site, f.how)
					if sum.Sum32()%every != 0 {
						continue
					}
					injected.Add(1)
					if p.inject(v, f, int(injected.Load())) {
						refused.Add(1)
					}
				}
			})
		}
	})
	t.Logf("%s store: %d faults injected at %d call sites of %d verbs: %d ended the command, %d it coped with",
		k.name, injected.Load(), sites.Load(), len(k.verbs), refused.Load(), injected.Load()-refused.Load())
}

// forgetListing removes the derived listing, so that whoever lists writes it (else
// the ages of the snapshots, in milliseconds, decide who does).
func (h *host) forgetListing() {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.root, "refs.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
}

// inStore: the call changes something below the root.
func (h *host) inStore(c *durabletest.Call) bool {
	return strings.HasPrefix(c.Path, h.root+"/") || strings.HasPrefix(c.To, h.root+"/")
}

// faults runs a verb once and gives what can fail in it.
func (p *pairs) faults(v verb) (sites int, all []fault) {
	p.t.Helper()
	p.ready()
	p.prepare(v, "learn")
	p.forgetListing()
	seen := map[string]bool{}
	status, _, stderr := p.traced(p.argsOf(v, "learn"), durabletest.Tracer{Entry: func(c *durabletest.Call) durabletest.Verdict {
		if p.inStore(c) && !seen[c.Name+" "+c.Site] {
			seen[c.Name+" "+c.Site] = true
			sites++
			all = append(all, failures(c)...)
		}
		return durabletest.Verdict{}
	}})
	if status.ExitStatus() != 0 {
		p.t.Fatalf("%s ends with %d: %s", v.name, status.ExitStatus(), stderr)
	}
	p.ended(v, "learn", true)
	p.settle(nil)
	return sites, all
}

// failures are the ways in which a kernel may fail a call.
func failures(c *durabletest.Call) []fault {
	all := []fault{{c.Name, c.Site, "EIO", durabletest.Verdict{Errno: unix.EIO}}}
	switch c.Name {
	case "openat", "mkdirat", "renameat", "renameat2", "linkat", "symlinkat", "write", "pwrite64", "pwritev", "ftruncate", "fallocate", "fsync":
		all = append(all, fault{c.Name, c.Site, "ENOSPC", durabletest.Verdict{Errno: unix.ENOSPC}})
	}
	if (c.Name == "write" || c.Name == "pwrite64") && c.Bytes > 1 {
		all = append(all, fault{c.Name, c.Site, "a short write", durabletest.Verdict{Short: true}})
	}
	return all
}

// inject plays a verb with one fault; it answers whether the verb failed.
func (p *pairs) inject(v verb, f fault, n int) (failed bool) {
	p.t.Helper()
	what := fmt.Sprintf("%s, %s at %s fails by %s", v.name, f.call, f.site, f.how)
	p.ready()
	role := fmt.Sprintf("f%d", n)
	p.prepare(v, role)
	p.forgetListing()
	met := false
	status, _, stderr := p.traced(p.argsOf(v, role), durabletest.Tracer{Entry: func(c *durabletest.Call) durabletest.Verdict {
		if met || c.Name != f.call || c.Site != f.site || !p.inStore(c) {
			return durabletest.Verdict{}
		}
		met = true
		return f.verdict
	}})
	code := status.ExitStatus()
	switch {
	case !met:
		p.t.Errorf("%s: the call was not made", what)
	case code != 0 && f.verdict.Short:
		p.t.Errorf("%s: a short write is no failure, but it ends with %d: %s", what, code, stderr)
	case code != 0 && (!strings.HasPrefix(stderr, "cocoon: ") || strings.Contains(stderr, "goroutine ")):
		p.t.Errorf("%s: it ends with %d: %s", what, code, stderr)
	case code != 0 && f.verdict.Errno == unix.ENOSPC && code != 8:
		p.t.Errorf("%s: it ends with %d, want 8: %s", what, code, stderr)
	}
	p.ended(v, role, code == 0)
	p.settle(nil)
	if code != 0 {
		p.ready()
		p.prepare(v, role+"r")
		p.must(p.argsOf(v, role+"r")...)
		p.ended(v, role+"r", true)
		p.settle(nil)
	}
	if p.t.Failed() {
		p.t.Fatalf("%s: see above", what)
	}
	return code != 0
}
