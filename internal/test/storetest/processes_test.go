package storetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/test/storetest"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/cocoonv2/cocoon/store/repair"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// A process of the model test is this test binary with these variables.
const (
	modelRoot = "STORETEST_MODEL_ROOT"
	modelSeed = "STORETEST_MODEL_SEED"
	modelOps  = "COCOON_MODEL_OPS" // steps of each process
)

// TestProcessesAgainstAModel has processes work on one store by random steps,
// each with a model of its own snapshots: names, contents, labels, protection.
// Whatever the others and their collectors do, each finds its own as the model
// has them; at the end the store is the union of the models and holds nothing
// else.
func TestProcessesAgainstAModel(t *testing.T) {
	if root := os.Getenv(modelRoot); root != "" {
		actor(t, root)
		return
	}
	const processes = 8
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv(modelSeed); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", modelSeed, seed)
	s, err := store.Open(t.Context(), inMemory(t), store.Options{Create: true, Veto: sleep.Veto})
	if err != nil {
		t.Fatal(err)
	}
	var started []*exec.Cmd
	var said []*bytes.Buffer
	for i := range uint64(processes) {
		c := exec.Command(os.Args[0], "-test.run=^TestProcessesAgainstAModel$")
		c.Env = append(os.Environ(), modelRoot+"="+s.Root(), fmt.Sprintf("%s=%d", modelSeed, seed+i))
		out := new(bytes.Buffer)
		c.Stdout, c.Stderr = out, out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		started, said = append(started, c), append(said, out)
	}
	want := map[string]state{}
	for i, c := range started {
		if err := c.Wait(); err != nil {
			t.Errorf("process %d: %v\n%s", i, err, said[i])
		}
		b, err := os.ReadFile(s.Path(fmt.Sprintf("model-%d", seed+uint64(i))))
		if err := errors.Join(err, json.Unmarshal(b, &want)); err != nil {
			t.Fatal(err) // names differ, so the maps add up
		}
	}
	got := map[string]state{}
	needed := map[string]bool{}
	for sn, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got[sn.Meta.Name] = stateOf(sn.Meta)
		if err := holds(s, sn, sn.Meta.Description); err != nil {
			t.Error(err)
		}
		for _, d := range document.Edges(sn) {
			needed[d.Encoded()] = true
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("snapshots (-models +store):\n%s", d)
	}
	if err := collect(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var left []string
	blobs, err := os.ReadDir(s.Path("blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		left = append(left, b.Name())
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(needed)), left); d != "" {
		t.Errorf("blobs (-needed +there):\n%s", d)
	}
	t.Logf("%d processes: %d snapshots stand as the models say", processes, len(got))
}

// state is what a model knows of a snapshot.
type state struct {
	Of        string // says what its contents are
	Tag       string
	Protected bool
}

func stateOf(m store.Meta) state {
	return state{Of: m.Description, Tag: m.Labels["tag"], Protected: m.Protected}
}

// pages are the contents of a snapshot, by its description: some it has in
// common with others, one is its own.
func pages(of string) []byte {
	n, _ := strconv.Atoi(of)
	b := make([]byte, 24*pack.PageSize)
	for p := range 23 {
		copy(b[p*pack.PageSize:], fmt.Sprintf("page %d of family %d", p, n%3))
	}
	copy(b[23*pack.PageSize:], "own "+of)
	return b
}

func holds(s *store.Store, sn *store.Snapshot, of string) error {
	im, err := contents.Of(s, sn).Memory(context.Background(), 0)
	if err != nil {
		return err
	}
	defer im.Close()
	b := make([]byte, im.Bytes())
	if _, err := im.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read %s: %w", sn.Meta.Name, err)
	}
	if !bytes.Equal(b, pages(of)) {
		return fmt.Errorf("the contents of %s are wrong", sn.Meta.Name)
	}
	return nil
}

// actor is one process.
func actor(t *testing.T, root string) {
	seed, err := strconv.ParseUint(os.Getenv(modelSeed), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	steps := 40
	if v := os.Getenv(modelOps); v != "" {
		if steps, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.Open(t.Context(), root, store.Options{Veto: sleep.Veto})
	if err != nil {
		t.Fatal(err)
	}
	a := &acting{s: s, rnd: rand.New(rand.NewPCG(seed, 5)), prefix: fmt.Sprintf("p%d-", seed), model: map[string]state{}}
	for i := range steps {
		if err := a.step(t.Context(), i); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	b, err := json.Marshal(a.model)
	if err == nil {
		err = os.WriteFile(s.Path(fmt.Sprintf("model-%d", seed)), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// acting is a process with its model, by names.
type acting struct {
	s      *store.Store
	rnd    *rand.Rand
	prefix string
	model  map[string]state
}

func (a *acting) step(ctx context.Context, i int) error {
	n := a.rnd.IntN(14)
	mine := slices.Sorted(maps.Keys(a.model))
	if n < 4 || len(mine) == 0 {
		name, of := fmt.Sprint(a.prefix, i), strconv.Itoa(a.rnd.IntN(1000))
		a.model[name] = state{Of: of}
		return a.publish(ctx, name, of)
	}
	name := mine[a.rnd.IntN(len(mine))]
	id, err := a.s.Resolve(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case n < 6:
		return a.remove(ctx, id, name)
	case n < 9:
		return a.change(ctx, id, name, i)
	case n < 10:
		want := a.model[name]
		return a.read(ctx, id, &want)
	case n < 12:
		return a.readAny(ctx)
	case n < 13:
		rep, err := repair.Verify(ctx, a.s, []store.ID{id}, repair.VerifyOptions{ReadData: true})
		if err == nil && len(rep.Damaged) > 0 {
			err = fmt.Errorf("%s is damaged: %+v", name, rep.Damaged)
		}
		return err
	}
	if err := collect(ctx, a.s); err != nil && !errors.Is(err, failure.Busy) {
		return fmt.Errorf("collect: %w", err)
	}
	return nil
}

func (a *acting) remove(ctx context.Context, id store.ID, name string) error {
	err := a.s.Remove(ctx, id, store.RemoveOptions{})
	if errors.Is(err, failure.Conflict) {
		return nil // protected, or another process reads it now
	}
	if err == nil && a.model[name].Protected {
		err = fmt.Errorf("%s was removed although it is protected", name)
	}
	delete(a.model, name)
	return err
}

// change renames a snapshot, tags it, or turns its protection.
func (a *acting) change(ctx context.Context, id store.ID, name string, i int) error {
	to, now := name, a.model[name]
	switch a.rnd.IntN(3) {
	case 0:
		to = fmt.Sprint(a.prefix, "r", i)
	case 1:
		now.Tag = strconv.Itoa(i)
	case 2:
		now.Protected = !now.Protected
	}
	delete(a.model, name)
	a.model[to] = now
	return a.s.SetMeta(ctx, id, func(m *store.Meta) error {
		m.Name, m.Labels, m.Protected = to, map[string]string{"tag": now.Tag}, now.Protected
		return nil
	})
}

func (a *acting) publish(ctx context.Context, name, of string) error {
	l, err := a.s.Lease(ctx, "model")
	if err != nil {
		return err
	}
	_, err = storetest.Publish(ctx, a.s, l, store.Meta{Name: name, Description: of}, pages(of))
	return errors.Join(err, l.Release())
}

// read reads a snapshot under a lease, so that nobody takes it away. What else is
// true of it only the process knows that made it; nil for another.
func (a *acting) read(ctx context.Context, id store.ID, want *state) error {
	l, err := a.s.Lease(ctx, "reader")
	if err != nil {
		return err
	}
	err = l.HoldSnapshot(ctx, id)
	if err == nil {
		var sn *store.Snapshot
		if sn, err = a.s.Get(ctx, id); err == nil {
			err = holds(a.s, sn, sn.Meta.Description)
			if got := stateOf(sn.Meta); want != nil && got != *want {
				err = errors.Join(err, fmt.Errorf("%s is %+v, the model says %+v", sn.Meta.Name, got, *want))
			}
		}
	}
	return errors.Join(err, l.Release())
}

// readAny reads somebody's snapshot, which may go away before it is held.
func (a *acting) readAny(ctx context.Context) error {
	all, err := a.s.Index().Summaries(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	of := all[a.rnd.IntN(len(all))]
	if err := a.read(ctx, of.ID, nil); !errors.Is(err, failure.NotFound) {
		return err
	}
	return nil
}
