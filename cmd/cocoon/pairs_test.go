package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// pairsSlice is the share of the pairs that a plain `go test` holds; `make
// pairs` holds all (COCOON_PAIRS=1).
const pairsSlice = 40

// TestPairs holds one command at each of its named steps while another runs, for
// all pairs of verbs: no published snapshot is damaged, nothing that is needed
// is collected, nobody hangs, guests run.
func TestPairs(t *testing.T) {
	t.Parallel()
	every := pairsSlice
	if v := os.Getenv("COCOON_PAIRS"); v != "" {
		var err error
		if every, err = strconv.Atoi(v); err != nil || every < 1 {
			t.Fatalf("COCOON_PAIRS=%q: want a number: every how manieth pair is held", v)
		}
	}
	vmm := storeVMM(t)
	var held, steps, waited atomic.Int64
	t.Run("held", func(t *testing.T) {
		for i, a := range verbs {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				p := newPairs(t, vmm)
				at := p.steps(a)
				steps.Add(int64(len(at)))
				for j, step := range at {
					for k, b := range verbs {
						if (i+7*j+3*k)%every != 0 {
							continue
						}
						held.Add(1)
						if p.hold(a, step, b) {
							waited.Add(1)
						}
					}
				}
			})
		}
	})
	t.Logf("%d pairs held at %d steps of %d verbs; in %d of them the second had to wait for the first", held.Load(), steps.Load(), len(verbs), waited.Load())
}

// pairs is a host on which pair after pair is played.
type pairs struct {
	*host
	web     vmRow
	orphans int
	address string            // of the registry, once there is one
	asleep  map[string]uint32 // the last counter of VMs that were put to sleep, by name
}

// registry is an empty one on a loopback port, until the test ends.
func (p *pairs) registry() string {
	if p.address == "" {
		s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
		p.t.Cleanup(s.Close)
		p.address = strings.TrimPrefix(s.URL, "http://")
	}
	return p.address
}

// newPairs makes a host with a VM and two snapshots of it. The guests of the
// simulator fill 8 MiB: how much there is to copy does not matter here.
func newPairs(t *testing.T, vmm string, prepare ...func(*host)) *pairs {
	p := &pairs{host: newHost(t, vmm, "CHSIM_FILL=8M", "COCOON_VMM_TIMEOUT=10m"), asleep: map[string]uint32{}}
	for _, do := range prepare {
		do(p.host)
	}
	p.web = p.boot("web")
	p.must("snapshot", "create", "web", "target", "--expires", "1ms")
	p.must("snapshot", "export", "target", "-o", "folder")
	p.must("snapshot", "create", "web", "keep")
	p.must("snapshot", "protect", "keep")
	return p
}

// ready makes what a pair works on: the target, and something to collect.
func (p *pairs) ready() {
	p.t.Helper()
	if !slices.Contains(p.snapshots(), "target") {
		p.must("snapshot", "create", "web", "target", "--parent", "none", "--expires", "1ms")
	}
	p.orphans++
	orphan := digest.FromString(fmt.Sprint("orphan ", p.orphans)).Encoded()
	if err := os.WriteFile(filepath.Join(p.root, "blobs", "sha256", orphan), []byte("x"), 0o400); err != nil {
		p.t.Fatal(err)
	}
}

// prepare makes what a verb needs besides.
func (p *pairs) prepare(v verb, role string) {
	p.t.Helper()
	p.before(v, role)
	p.damage(v)
}

func (p *pairs) before(v verb, role string) {
	p.t.Helper()
	if v.before != nil {
		v.before(p, role)
	}
}

// damage breaks a pack of target if the verb is to find it so; nothing can be
// made of it any more.
func (p *pairs) damage(v verb) {
	p.t.Helper()
	if !v.damages {
		return
	}
	if err := spoilPack(p.root, p.must("snapshot", "inspect", "target"), "index"); err != nil {
		p.t.Fatal(err)
	}
	verify, _, stderr := p.command([]string{"snapshot", "verify", "--all", "--read-data", "--quarantine"})
	if err := verify.Run(); verify.ProcessState.ExitCode() != 5 {
		p.t.Fatalf("verify of a damaged pack: %v: %s", err, stderr)
	}
}

// ended looks at what a verb worked on.
func (p *pairs) ended(v verb, role string, ok bool) {
	p.t.Helper()
	if v.after != nil {
		v.after(p, role, ok)
	}
}

func (p *pairs) snapshots() []string {
	return strings.Fields(p.must("snapshot", "list", "--format", "{{.Name}}"))
}

// steps runs a verb once and answers the steps that it goes through, the first
// and the last visit of each. The target shares nothing with another snapshot,
// as after a pair that has removed it: no pair goes through fewer.
func (p *pairs) steps(v verb) []string {
	p.t.Helper()
	p.must("snapshot", "rm", "target")
	p.must(repackAll...) // what it leaves, also in packs of others, is not there for the pairs
	p.ready()
	p.prepare(v, "a")
	log := filepath.Join(p.t.TempDir(), "steps")
	c, _, stderr := p.command(p.argsOf(v, "a"), durable.StepLog+"="+log)
	if err := c.Run(); err != nil {
		p.t.Fatalf("%s: %v: %s", v.name, err, stderr)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		p.t.Fatalf("%s goes through no step: %v", v.name, err)
	}
	p.settle(nil)
	visits := map[string]int{}
	var order []string
	for _, s := range strings.Fields(string(b)) {
		if visits[s]++; visits[s] == 1 {
			order = append(order, s)
		}
	}
	var at []string
	for _, s := range order {
		if s == "gc.breath" { // how many there are, and whether there is one, is up to the clock
			if visits[s] > 1 {
				at = append(at, s+"#1")
			}
			continue
		}
		at = append(at, s+"#1")
		if n := visits[s]; n > 1 {
			if strings.HasPrefix(s, "migration.") {
				n = 2 // how many rounds come after the second is up to the clock
			}
			at = append(at, fmt.Sprintf("%s#%d", s, n))
		}
	}
	return at
}

// started is a command of a pair.
type started struct {
	verb   verb
	role   string
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	ended  chan struct{}
}

func (p *pairs) start(v verb, role string, env ...string) *started {
	p.t.Helper()
	c, _, stderr := p.command(p.argsOf(v, role), env...)
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	s := &started{v, role, c, stderr, make(chan struct{})}
	go func() {
		_ = c.Wait() // the exit code is looked at
		close(s.ended)
	}()
	return s
}

// hold plays one pair; it answers whether b could not end before a went on.
func (p *pairs) hold(a verb, step string, b verb) (waited bool) {
	p.t.Helper()
	p.ready()
	what := fmt.Sprintf("%s held at %s, %s beside it", a.name, step, b.name)
	p.before(a, "a")
	p.before(b, "b")
	p.damage(a)
	var sound string // target, which is damaged when the first stands
	if b.damages && !a.damages {
		sound = p.must("snapshot", "inspect", "target")
	}
	answers := []int{0, 3, 4, 7} // gone, in use, taken or busy
	if a.damages || b.damages {
		answers = append(answers, 5)
	}
	first := p.start(a, "a", durable.StopAt+"="+step)
	stands := first.stands()
	if sound != "" {
		if err := spoilPack(p.root, sound, "index"); err != nil && !errors.Is(err, os.ErrNotExist) { // removed already
			p.t.Fatal(err)
		}
	}
	second := p.start(b, "b")
	if stands {
		waited = !second.endsAlone()
	}
	if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	for _, s := range []*started{first, second} {
		select {
		case <-s.ended:
		case <-time.After(2 * time.Minute):
			_ = s.cmd.Process.Kill()
			p.t.Fatalf("%s: %s hangs", what, s.verb.name)
		}
		if code := s.cmd.ProcessState.ExitCode(); !slices.Contains(answers, code) {
			p.t.Errorf("%s: %s ends with %d: %s", what, s.verb.name, code, s.stderr)
		}
	}
	if !stands {
		p.t.Errorf("%s: the step was not reached (exit code %d: %s)", what, first.cmd.ProcessState.ExitCode(), first.stderr)
	}
	p.settle([]*started{first, second})
	if p.t.Failed() {
		p.t.Fatalf("%s: see above", what)
	}
	return waited
}

// stands waits until the process stands still (true) or has ended.
func (s *started) stands() bool {
	for {
		select {
		case <-s.ended:
			return false
		case <-time.After(time.Millisecond):
		}
		if state, _ := s.stat(); state == "T" {
			return true
		}
	}
}

// endsAlone waits until the process ends; false when for a second it used almost
// no CPU, because it waits for the one that stands still: a waiting process asks
// for its lock a hundred times a second.
func (s *started) endsAlone() bool {
	const window, asking = 40, 3 // samples, ticks of the CPU within them
	var ticks []int
	for len(ticks) < 20*window {
		select {
		case <-s.ended:
			return true
		case <-time.After(25 * time.Millisecond):
		}
		_, now := s.stat()
		ticks = append(ticks, now)
		if n := len(ticks); n > window && now-ticks[n-1-window] <= asking {
			return false
		}
	}
	return false
}

// stat reads the state of the process and the CPU time that it used, in ticks.
func (s *started) stat() (state string, ticks int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if err != nil || !ok || len(f) < 13 {
		return "", 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return f[0], user + system
}

// settle looks at what must never be after a pair, and removes what it made.
func (p *pairs) settle(ran []*started) {
	p.t.Helper()
	for _, s := range ran {
		p.ended(s.verb, s.role, s.cmd.ProcessState.ExitCode() == 0)
	}
	p.clean("keep")
	p.runsWithin(p.web, 10*time.Second)
	have := p.snapshots()
	for _, s := range ran {
		ok := s.cmd.ProcessState.ExitCode() == 0
		if s.verb.snap != nil {
			if there := slices.Contains(have, s.verb.snap(s.role)); there != ok {
				p.t.Errorf("%s ended with %d, its snapshot is there: %v", s.verb.name, s.cmd.ProcessState.ExitCode(), there)
			}
		}
		if s.verb.vms != nil && ok {
			for _, name := range s.verb.vms(s.role) {
				p.counts(name)
			}
		}
	}
	for _, name := range have {
		if name != "keep" && name != "target" {
			p.must("snapshot", "rm", name)
		}
	}
	var vms []vmRow
	if err := json.Unmarshal([]byte(p.must("vm", "list", "--format", "json")), &vms); err != nil {
		p.t.Fatal(err)
	}
	for _, v := range vms {
		if v.Name != "web" {
			p.must("vm", "rm", "-f", v.Name)
			p.must("gc", "--cache-max-bytes", "0") // its materialised RAM, so that the next pair makes it anew
		}
	}
}
