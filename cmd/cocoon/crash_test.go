package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
)

const (
	// crashers are the processes that work on one store at once, on crashVMs VMs;
	// each has at most one clone, for every guest keeps a CPU busy.
	crashers = 8
	crashVMs = 2
	// wholeRun is how many kills reach every step of every verb.
	wholeRun = 1000
	// hangSeconds is after how long a command that has not ended hangs.
	hangSeconds = 180
)

// TestCrash has eight processes work on one store and kills one after the other
// by SIGKILL, half of them at named steps, half at random moments. Afterwards
// nothing that was acknowledged is lost, nothing is damaged, nothing leaks past
// one gc and no guest stands still. Half of the processes encrypt what they store,
// the others do not, and each reads what all have stored. COCOON_CRASH_ROUNDS
// says how many kills.
func TestCrash(t *testing.T) {
	t.Parallel()
	rounds := 40
	if v := os.Getenv("COCOON_CRASH_ROUNDS"); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("COCOON_CRASH_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("COCOON_CRASH_SEED=%d", seed)
	vmm := storeVMM(t)
	c := &crash{host: newHost(t, vmm), kills: map[string]int{}, ends: map[int]int{}, at: map[string]int{}, tried: map[string]int{}}
	key := c.newKey()
	c.env = append(c.env, "COCOON_KEY_FILE=none:"+key) // reads, and stores in the clear
	c.begin()
	workers := make([]*crasher, crashers)
	var running sync.WaitGroup
	for i := range workers {
		workers[i] = &crasher{
			crash: c, number: i, web: fmt.Sprintf("web%d", i%crashVMs), rnd: rand.New(rand.NewPCG(seed, uint64(i))),
			kept: map[string]fate{}, vms: map[string]fate{},
		}
		if i >= crashers/2 {
			workers[i].seals = []string{"COCOON_KEY_FILE=" + key}
		}
		running.Go(func() { workers[i].work(rounds) })
	}
	running.Wait()
	c.judge(workers)
}

// fate is what a worker knows of what it made.
type fate int

const (
	unknown fate = iota // its maker was killed
	leaving             // its remover was killed: a VM may have been ended
	stands              // acknowledged: it must be there
	removed             // the removal was acknowledged: it must not be there
)

// crash is a store under attack.
type crash struct {
	*host
	pulled string              // reference of a snapshot that the store has only while one was pulled
	steps  map[string][]string // verb → name#visit

	mu    sync.Mutex
	kills map[string]int // by verb
	at    map[string]int // kills by step; "" is a random moment
	tried map[string]int // commands that were to die at a step
	ends  map[int]int    // exit codes of those that lived
}

// begin makes the VMs and a folder to import, and learns the steps of each verb.
func (c *crash) begin() {
	c.boot("web0")
	for i := 1; i < crashVMs; i++ {
		c.must("vm", "create", fmt.Sprintf("web%d", i), "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
	}
	c.must("snapshot", "create", "web0", "base", "--protect")
	c.must("snapshot", "export", "base", "-o", "folder")
	c.must("snapshot", "create", "web0", "expired", "--expires", "1ms")
	c.worn("web0", "worn")
	c.steps = map[string][]string{}
	for _, v := range []struct {
		verb string
		args []string
	}{
		{"create", []string{"snapshot", "create", "web0", "learn"}},
		{"clone", []string{"vm", "create", "learn", "--from-snapshot", "base"}},
		{"vm rm", []string{"vm", "rm", "-f", "learn"}},
		{"import", []string{"snapshot", "import", "folder", "--name", "learn2"}},
		{"rm", []string{"snapshot", "rm", "learn"}},
		{"prune", []string{"snapshot", "prune", "--keep-last", "1"}},
		{"gc", []string{"gc"}},
		{"repack", repackAll},
		{"repair", []string{"system", "repair"}},
	} {
		c.steps[v.verb] = c.learn(v.args)
	}
	c.prepareRest()
}

func (c *crash) learn(args []string) []string {
	c.t.Helper()
	log := filepath.Join(c.t.TempDir(), "steps")
	cmd, _, stderr := c.command(args, durable.StepLog+"="+log)
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("cocoon %v: %v: %s", args, err, stderr)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		c.t.Fatalf("cocoon %v goes through no step: %v", args, err)
	}
	return visitsOf(string(b))
}

// visitsOf numbers the visits of each step in a log.
func visitsOf(log string) (at []string) {
	visits := map[string]int{}
	for _, s := range strings.Fields(log) {
		visits[s]++
		at = append(at, fmt.Sprintf("%s#%d", s, visits[s]))
	}
	return at
}

// enough says whether as many died as should.
func (c *crash) enough(rounds int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.kills {
		n += k
	}
	return n >= rounds || c.t.Failed()
}

// crasher is one worker: a sequence of processes, never two at once.
type crasher struct {
	*crash
	number int
	web    string
	rnd    *rand.Rand
	seals  []string // setting of the key that its processes encrypt with
	next   int
	kept   map[string]fate // its protected snapshots
	vms    map[string]fate // its clones
}

func (w *crasher) work(rounds int) {
	for !w.enough(rounds) {
		if w.rnd.IntN(3) == 0 {
			w.rest()
			continue
		}
		w.next++
		name := fmt.Sprintf("w%d-%d", w.number, w.next)
		switch w.rnd.IntN(14) {
		case 0, 1:
			w.make(w.kept, name, "create", "snapshot", "create", w.web, name, "--protect")
		case 2, 3:
			w.run("create", "snapshot", "create", w.web, name)
		case 4:
			w.run("import", "snapshot", "import", "folder", "--name", name)
		case 5, 6, 7:
			if of := w.one(w.vms, unknown, leaving, stands); of != "" {
				w.unmake(w.vms, of, "vm rm", "vm", "rm", "-f", of)
			} else {
				w.make(w.vms, name, "clone", "vm", "create", name, "--from-snapshot", w.source())
			}
		case 8, 9:
			if of := w.one(w.kept, unknown, leaving, stands); of != "" {
				w.unmake(w.kept, of, "rm", "snapshot", "rm", "--force", of)
			}
		case 10:
			w.run("prune", "snapshot", "prune", "--keep-last", "1")
		case 11:
			w.run("gc", "gc", "--wait", "20s")
		case 12:
			w.wear(name)
			w.run("repack", append(slices.Clone(repackAll), "--wait", "20s")...)
		case 13:
			w.run("repair", "system", "repair")
		}
	}
}

// wear leaves a pack of which a part is not needed any more, so that a repack
// has something to do. Of what it makes the next prune takes the rest.
func (w *crasher) wear(name string) {
	w.alone("snapshot", "create", w.web, name+"-parent", "--parent", "none")
	w.alone("snapshot", "create", w.web, name, "--parent", name+"-parent")
	w.alone("snapshot", "rm", name+"-parent")
}

// source is a snapshot to clone: the one that always stands, or one of ours.
func (w *crasher) source() string {
	if of := w.one(w.kept, stands); of != "" && w.rnd.IntN(2) == 0 {
		return of
	}
	return "base"
}

// one gives a name whose fate is one of these, "" for none.
func (w *crasher) one(of map[string]fate, fates ...fate) string {
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if slices.Contains(fates, of[name]) {
			return name
		}
	}
	return ""
}

func (w *crasher) make(of map[string]fate, name, verb string, args ...string) {
	code, out := w.run(verb, args...)
	switch {
	case code == 0 || strings.TrimSpace(out) != "": // an id on stdout is the acknowledgement
		of[name] = stands
	case code > 0:
		of[name] = removed
	default:
		of[name] = unknown
	}
}

func (w *crasher) unmake(of map[string]fate, name, verb string, args ...string) {
	switch code, _ := w.run(verb, args...); {
	case code == 3 && of[name] == stands:
		w.t.Errorf("%s was acknowledged and is lost", name)
		of[name] = removed
	case code == 0 || code == 3:
		of[name] = removed
	case code < 0:
		of[name] = leaving
	}
}

// run runs a command that may be killed; -1 says that it was.
func (w *crasher) run(verb string, args ...string) (code int, stdout string) {
	env := slices.Clone(w.seals)
	step, after := "", time.Duration(-1)
	switch w.rnd.IntN(5) {
	case 0, 1:
		step = w.rarest(verb)
		env = append(env, durable.KillAt+"="+step)
	case 2, 3:
		after = time.Duration(w.rnd.Int64N(int64(600 * time.Millisecond)))
	}
	cmd, out, stderr := w.command(args, env...)
	if err := cmd.Start(); err != nil {
		w.t.Error(err)
		return 1, ""
	}
	if after >= 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	ended := make(chan struct{})
	go func() {
		if livesThrough(hangSeconds, ended) {
			w.t.Errorf("cocoon %v hangs", args)
			_ = cmd.Process.Kill()
		}
	}()
	_ = cmd.Wait() // the state says it all
	close(ended)
	w.count(verb, step, args, cmd.ProcessState.Sys().(syscall.WaitStatus), stderr)
	return cmd.ProcessState.ExitCode(), out.String()
}

// livesThrough waits that many seconds of this process's life, or until ended is
// closed. A machine that stood still meanwhile, and the command with it, makes
// one second of it.
func livesThrough(seconds int, ended <-chan struct{}) bool {
	for range seconds {
		select {
		case <-ended:
			return false
		case <-time.After(time.Second):
		}
	}
	return true
}

// rarest is the step of a verb at which the fewest were killed so far. Tries
// count too, by less: what a command finds to do may not bring it to a later
// visit, and the other steps must have their turn.
func (w *crasher) rarest(verb string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.steps[verb]) == 0 {
		return ""
	}
	had := func(step string) int { return 4*w.at[step] + w.tried[step] }
	step := slices.MinFunc(w.steps[verb], func(a, b string) int { return had(a) - had(b) })
	w.tried[step]++
	return step
}

func (w *crasher) count(verb, step string, args []string, status syscall.WaitStatus, stderr *bytes.Buffer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if status.Signaled() {
		w.kills[verb]++
		w.at[step]++
		return
	}
	w.ends[status.ExitStatus()]++
	// Gone, in use or taken, busy: answers that others at work may cause.
	if !slices.Contains([]int{0, 3, 4, 7}, status.ExitStatus()) {
		w.t.Errorf("cocoon %v ends with %d: %s", args, status.ExitStatus(), stderr)
	}
}

// judge counts what must be none.
func (c *crash) judge(workers []*crasher) {
	c.t.Helper()
	c.must("snapshot", "verify", "--all", "--read-data")
	c.must("gc", "--cache-max-bytes", "0") // the RAM of pairs, which may stay
	c.clean("base")
	snaps := strings.Fields(c.must("snapshot", "list", "--format", "{{.Name}}"))
	var rows []vmRow
	if err := json.Unmarshal([]byte(c.must("vm", "list", "--format", "json")), &rows); err != nil {
		c.t.Fatal(err)
	}
	var vms []string
	for _, v := range rows {
		vms = append(vms, v.Name)
	}
	acknowledged := 0
	for _, w := range workers {
		for what, of := range map[string]map[string]fate{"snapshot": w.kept, "VM": w.vms} {
			have := map[string][]string{"snapshot": snaps, "VM": vms}[what]
			for name, f := range of {
				if there := slices.Contains(have, name); (f == stands && !there) || (f == removed && there) {
					c.t.Errorf("%s %s: acknowledged as %v, is there: %v", what, name, map[fate]string{stands: "made", removed: "removed"}[f], there)
				}
				if f == stands || f == removed {
					acknowledged++
				}
			}
		}
	}
	for _, v := range rows {
		if v.State == "error" && slices.ContainsFunc(workers, func(w *crasher) bool { return w.vms[v.Name] == leaving }) {
			continue
		}
		if v.State != "running" {
			c.t.Errorf("VM %s is %s", v.Name, v.State)
			continue
		}
		c.runsWithin(v, 10*time.Second)
	}
	for i := range crashVMs {
		c.counts(fmt.Sprintf("web%d", i))
	}
	c.noLeaks()
	killed, named := 0, 0
	for step, n := range c.at {
		if killed += n; step != "" {
			named += n
		}
	}
	all := map[string]bool{}
	for _, steps := range c.steps {
		for _, s := range steps {
			all[s] = true
			if c.at[s] == 0 && killed >= wholeRun {
				c.t.Errorf("nobody was killed at step %s", s)
			}
		}
	}
	c.t.Logf("%d processes killed: %d at %d of %d named steps and visits, %d at random moments; by verb %v; exit codes of the others %v",
		killed, named, len(c.at)-1, len(all), c.at[""], c.kills, c.ends)
	sealed := strings.Fields(c.must("snapshot", "list", "--format", "{{.Key}}"))
	c.t.Logf("%d acknowledgements hold; %d snapshots, %d of them encrypted, and %d VMs stand at the end, every VM runs", acknowledged, len(snaps), len(sealed), len(rows))
}

var temporary = regexp.MustCompile(`^\.tmp-`)

// noLeaks compares the files of the store with the closure of its roots.
func (h *host) noLeaks() {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.root, store.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	needed := map[string]bool{}
	for sn, err := range s.List(h.t.Context()) {
		if err != nil {
			h.t.Fatal(err)
		}
		for _, d := range document.Edges(sn) {
			needed[d.Encoded()] = true
		}
	}
	for _, d := range h.recorded(s) {
		needed[d.Encoded()] = true
	}
	err = filepath.WalkDir(h.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(h.root, path)
		switch room := filepath.Dir(rel); {
		case temporary.MatchString(e.Name()):
			h.t.Errorf("leaked: %s", rel)
		case room == "blobs/sha256" || room == "images/blobs/sha256":
			if !needed[e.Name()] {
				h.t.Errorf("leaked: %s, which no root names", rel)
			}
		case room == "cache/memory":
			if fi, err := e.Info(); err != nil || fi.Sys().(*syscall.Stat_t).Nlink < 2 {
				h.t.Errorf("leaked: %s, which no VM maps (%v)", rel, err)
			}
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
}

// recorded are the image blobs of VMs and images.
func (h *host) recorded(s *store.Store) []digest.Digest {
	h.t.Helper()
	var out []digest.Digest
	images, err := image.New(s).List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, im := range images {
		out = append(out, im.ID)
	}
	records, err := filepath.Glob(s.Path("vms", "*", "record.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, path := range records {
		var rec struct{ Images []digest.Digest }
		b, err := os.ReadFile(path)
		if err := errors.Join(err, json.Unmarshal(b, &rec)); err != nil {
			h.t.Fatal(err)
		}
		out = append(out, rec.Images...)
	}
	return out
}
