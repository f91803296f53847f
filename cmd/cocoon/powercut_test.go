//go:build amd64

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/durabletest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// TestPowerCuts cuts the power after every call of every verb that changes the
// store, plain or encrypted. Of what was not fsynced by then nothing is on the disk, or all, or any
// part (COCOON_POWERCUTS random parts for each call; a plain `go test` tries
// some verbs and calls only). What was published and acknowledged is whole each time, and
// one collection brings the store in order.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	parts := 0
	if v := os.Getenv("COCOON_POWERCUTS"); v != "" {
		var err error
		if parts, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	vmm := storeVMM(t)
	for _, k := range storeKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			k.powerCuts(t, vmm, parts)
		})
	}
}

// powerCuts cuts the power during every verb.
func (k storeKind) powerCuts(t *testing.T, vmm string, parts int) {
	var cuts, calls, collected atomic.Int64
	t.Run("cut", func(t *testing.T) {
		for i, v := range k.verbs {
			if parts == 0 && i%k.share != 0 {
				continue
			}
			t.Run(v.name, func(t *testing.T) {
				t.Parallel()
				c := &cutter{pairs: newPairs(t, vmm, k.make...), verb: v, parts: parts, rnd: rand.New(rand.NewPCG(7, uint64(i)))}
				c.play()
				cuts.Add(int64(c.cuts))
				calls.Add(int64(c.calls))
				collected.Add(int64(len(c.kept)))
			})
		}
	})
	t.Logf("%s store: %d power cuts after %d calls of %d verbs; %d of the stores were collected too",
		k.name, cuts.Load(), calls.Load(), len(k.verbs), collected.Load())
}

// cutter cuts the power during one verb.
type cutter struct {
	*pairs
	verb  verb
	parts int
	rnd   *rand.Rand

	disk        *durabletest.Disk
	row         string // the file that the last call wrote
	calls, cuts int
	kept        []string // stores that are collected when the verb has ended
	healing     bool     // a snapshot was damaged before, and may be so until the verb has ended
	awake       bool     // the guest was told to go on
}

// cutEvery is after which calls the power is cut where no parts are asked for.
const cutEvery = 16

// keepEvery is which share of the stores is collected: a collection must wait
// for the verb's end, since it would take the RAM that the verb has staged.
const keepEvery = 8

func (c *cutter) play() {
	c.t.Helper()
	c.ready()
	c.prepare(c.verb, "a")
	c.forgetListing()
	c.healing = c.verb.damages
	var err error
	if c.disk, err = durabletest.NewDisk(c.root); err != nil {
		c.t.Fatal(err)
	}
	status, _, stderr := c.traced(c.argsOf(c.verb, "a"), durabletest.Tracer{Exit: func(call *durabletest.Call) {
		if !c.inStore(call) { // its inode number may be one of ours
			c.resumes(call)
			return
		}
		if !c.disk.Apply(call) || c.bulk(call) {
			return
		}
		if c.calls++; c.parts > 0 || c.calls%cutEvery == 0 {
			c.cut(call.Name + " at " + call.Site)
		}
	}})
	if status.ExitStatus() != 0 {
		c.t.Fatalf("%s ends with %d: %s", c.verb.name, status.ExitStatus(), stderr)
	}
	healing := c.healing
	c.healing = false
	c.acknowledged()
	c.healing, c.awake = healing, false // as it was when the power was cut
	for _, dir := range c.kept {
		c.collects(dir)
	}
	c.ended(c.verb, "a", true)
	c.settle(nil)
}

// resumes looks for the request that lets a guest go on. From here on its disks
// are others than its RAM in a snapshot believes: it must not be suspended any
// more, whatever the power cut takes.
func (c *cutter) resumes(call *durabletest.Call) {
	if c.verb.name == "wake" && bytes.Contains(call.Data, []byte("/vm.resume ")) {
		c.awake = true
		c.cut("the guest goes on")
	}
}

// bulk: the call is not the first write of a row to one file.
func (c *cutter) bulk(call *durabletest.Call) bool {
	row := ""
	if call.Data != nil {
		row = call.Path
	}
	again := row != "" && row == c.row
	c.row = row
	return again
}

// cut tries what may be on the disk now.
func (c *cutter) cut(where string) {
	c.t.Helper()
	if c.t.Failed() {
		return
	}
	c.one(where+", nothing survives", func(int) bool { return false })
	if c.disk.Pending == 0 {
		return
	}
	c.one(where+", all survives", func(int) bool { return true })
	for range c.parts {
		seed := c.rnd.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 0))
		c.one(fmt.Sprintf("%s, part %d survives", where, seed), func(int) bool { return rnd.IntN(2) == 0 })
	}
}

func (c *cutter) one(what string, survives func(int) bool) {
	c.t.Helper()
	c.cuts++
	dir := filepath.Join(c.t.TempDir(), "root")
	if err := c.disk.PowerCut(dir, survives); err != nil {
		c.t.Errorf("%s: %v", what, err)
		return
	}
	c.whole(what, dir)
	if c.cuts%keepEvery == 0 {
		c.kept = append(c.kept, dir)
	} else if err := os.RemoveAll(dir); err != nil {
		c.t.Error(err)
	}
}

// whole fails unless every snapshot in the store is, and the one that was made
// long ago is there.
func (c *cutter) whole(what, dir string) *store.Store {
	c.t.Helper()
	s, err := store.Open(context.Background(), dir, store.Options{Keys: c.keys})
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return nil
	}
	rep, err := repair.Verify(context.Background(), s, nil, repair.VerifyOptions{ReadData: true})
	if err != nil || len(rep.Unopened) > 0 || len(rep.Damaged) > 0 && !c.healing {
		c.t.Errorf("%s: verify: %+v, %v", what, rep, err)
	}
	c.sleepers(what, s)
	if _, err := s.Names().Resolve(context.Background(), "keep"); err != nil {
		c.t.Errorf("%s: %v", what, err)
	}
	named(c.t, what, s)
	if _, err := s.Index().Summaries(context.Background()); err != nil {
		c.t.Errorf("%s: list: %v", what, err)
	}
	return s
}

// named: each snapshot with a name is found by its link, so nobody else is given it.
func named(t *testing.T, what string, s *store.Store) {
	t.Helper()
	for sn, err := range s.List(context.Background()) {
		if err != nil || sn.Meta.Name == "" {
			continue
		}
		if to, err := os.Readlink(s.Path("names", sn.Meta.Name)); err != nil || filepath.Base(to) != string(sn.ID) {
			t.Errorf("%s: the name %s of %s leads to %q, %v", what, sn.Meta.Name, sn.ID, to, err)
		}
	}
}

// sleepers: each suspended VM has its RAM, and none whose guest runs is suspended.
func (c *cutter) sleepers(what string, s *store.Store) {
	c.t.Helper()
	all, err := sleep.Sleepers(s)
	if err != nil {
		c.t.Errorf("%s: suspended VMs: %v", what, err)
	}
	for id, who := range all {
		if _, err := s.Get(context.Background(), id); err != nil {
			c.t.Errorf("%s: %s has lost its RAM: %v", what, who, err)
		}
		if c.awake {
			c.t.Errorf("%s: %s is suspended, and its guest runs", what, who)
		}
	}
}

// acknowledged cuts the power after the command's end: what it said is true.
func (c *cutter) acknowledged() {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "end")
	if err := c.disk.PowerCut(dir, func(int) bool { return false }); err != nil {
		c.t.Fatal(err)
	}
	s := c.whole("after the end", dir)
	if s == nil {
		return
	}
	holds := func(what string, err error) {
		if err != nil {
			c.t.Errorf("acknowledged %s is lost after a power cut: %v", what, err)
		}
	}
	if c.verb.snap != nil {
		_, err := s.Names().Resolve(context.Background(), c.verb.snap("a"))
		holds("snapshot", err)
	}
	switch c.verb.name {
	case "rm", "prune":
		if _, err := s.Names().Resolve(context.Background(), "target"); !errors.Is(err, failure.NotFound) {
			c.t.Errorf("a removed snapshot is back after a power cut (%v)", err)
		}
	case "rename":
		_, err := s.Names().Resolve(context.Background(), "t-a")
		holds("name", err)
	case "tag":
		id, err := s.Names().Resolve(context.Background(), "target")
		if err == nil {
			var sn *store.Snapshot
			if sn, err = s.Get(context.Background(), id); err == nil && sn.Meta.Labels["by"] != "a" {
				err = errors.New("it is not there")
			}
		}
		holds("label", err)
	case "suspend":
		if all, err := sleep.Sleepers(s); len(all) != 1 {
			c.t.Errorf("a suspended VM is none after a power cut: %v, %v", all, err)
		}
	case "wake":
		if !c.awake {
			c.t.Error("nobody saw that the guest goes on")
		}
	case "vm create", "restore", "clone", "vm start", "vm rm", "vm restore":
		live, lerr := filepath.Glob(filepath.Join(c.root, "vms", "*", "record.json"))
		cut, cerr := filepath.Glob(filepath.Join(dir, "vms", "*", "record.json"))
		if len(live) != len(cut) {
			c.t.Errorf("%d VMs are recorded, %d after a power cut (%v, %v)", len(live), len(cut), lerr, cerr)
		}
	case "image import":
		_, err := os.Stat(filepath.Join(dir, "images", "i-a.json"))
		holds("image", err)
	}
}

// collects: one collection leaves nothing for a second one, and harms nothing.
func (c *cutter) collects(dir string) {
	c.t.Helper()
	s := c.whole(dir, dir)
	if s == nil {
		return
	}
	for i := range 3 {
		rep, err := gc.Collect(context.Background(), s, gc.Options{Sources: house.Roots(s), Grace: -1})
		if err != nil {
			c.t.Errorf("collect: %v", err)
			return
		}
		// Journals are undone by the command line, which knows how to restore, and
		// before all else. Here the half-made VM goes first, what it mapped next.
		left := slices.DeleteFunc(rep.Removed, func(r gc.Removed) bool {
			return r.Kind == "journal" || r.Kind == "cache" && i == 1 && c.verb.name == "clone"
		})
		if i > 0 && len(left) > 0 {
			c.t.Errorf("collection %d still removes %+v", i+1, left)
		}
	}
	c.whole(dir+" after a collection", dir)
	if err := os.RemoveAll(dir); err != nil {
		c.t.Error(err)
	}
}
