package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

// curves draws cost against RAM size, number of snapshots and generations into
// dir, and prints what it draws.
func (b *bench) curves(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fmt.Printf("machine: %s\n", cpuModel())
	for name, draw := range map[string]func() ([]chart, error){"ram": b.byRAM, "snapshots": b.bySnapshots, "generations": b.byGeneration} {
		charts, err := draw()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for i, c := range charts {
			path := filepath.Join(dir, name+".svg")
			if i > 0 {
				path = filepath.Join(dir, fmt.Sprintf("%s-%d.svg", name, i+1))
			}
			if err := c.write(path); err != nil {
				return err
			}
			for _, l := range c.lines {
				fmt.Printf("%s: %s: %.5g → %.5g\n", c.title, l.name, l.xs, l.ys)
			}
		}
	}
	return nil
}

// home is a fresh store's environment.
func (b *bench) home(name string) (root string, env []string) {
	root = filepath.Join(b.work, name)
	return root, []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"}
}

// byRAM doubles the RAM from 128 MiB up to b.bytes.
func (b *bench) byRAM() ([]chart, error) {
	first, second, export := curve{name: "first capture"}, curve{name: "second, 7 % changed"}, curve{name: "export, verified"}
	peak := curve{name: "largest of the three"}
	for bytes := int64(128 << 20); bytes <= b.bytes; bytes *= 2 {
		root, env := b.home("curve")
		ram := b.ram(bytes, 7)
		dirs := []string{filepath.Join(b.work, "a"), filepath.Join(b.work, "b")}
		for i, im := range []*ramgen.Image{ram, ram.Mutate(0.07, 8)} {
			if err := folder(dirs[i], im); err != nil {
				return nil, err
			}
		}
		var one, two, out series
		for range b.runs {
			err := errors.Join(
				one.add(timed(env, b.cocoon, "snapshot", "import", dirs[0], "--name", "first")),
				two.add(timed(env, b.cocoon, "snapshot", "import", dirs[1], "--name", "second", "--parent", "first")),
				out.add(b.export(env)),
				removeAll(root))
			if err != nil {
				return nil, err
			}
		}
		gib := float64(bytes) / (1 << 30)
		first.add(gib, one.busy().Seconds())
		second.add(gib, two.busy().Seconds())
		export.add(gib, out.busy().Seconds())
		peak.add(gib, float64(max(one.peak(), two.peak(), out.peak()))/(1<<20))
		if err := removeAll(dirs...); err != nil {
			return nil, err
		}
	}
	return []chart{
		{title: "Cost against RAM size", x: "RAM, GiB (60 % zero)", y: "processor time, s", lines: []curve{first, second, export}},
		{title: "Memory of our own against RAM size", x: "RAM, GiB (60 % zero)", y: "peak, MiB", lines: []curve{peak}},
	}, nil
}

// bySnapshots takes ten times as many snapshots each time, up to b.snapshots.
func (b *bench) bySnapshots() ([]chart, error) {
	list, collect, create := curve{name: "snapshot list"}, curve{name: "gc, nothing to do"}, curve{name: "capture of 4 MiB"}
	small := filepath.Join(b.work, "small")
	if err := folder(small, b.ram(4<<20, 1)); err != nil {
		return nil, err
	}
	for n := 10; n <= b.snapshots; n *= 10 {
		root, env := b.home("many")
		if err := fill(root, n); err != nil {
			return nil, err
		}
		if _, err := timed(env, b.cocoon, "snapshot", "list", "-q"); err != nil {
			return nil, err
		}
		for _, m := range []struct {
			curve *curve
			argv  []string
		}{{&list, []string{"snapshot", "list"}}, {&collect, []string{"gc"}}, {&create, []string{"snapshot", "import", small}}} {
			s, err := b.repeat(env, append([]string{b.cocoon}, m.argv...)...)
			if err != nil {
				return nil, err
			}
			m.curve.add(float64(n), float64(s.busy().Microseconds())/1000)
		}
		if err := removeAll(root); err != nil {
			return nil, err
		}
	}
	return []chart{{
		title: "Cost against the number of snapshots", x: "snapshots", y: "processor time, ms", logX: true, logY: true,
		lines: []curve{list, collect, create},
	}}, removeAll(small)
}

// generations of one VM that byGeneration captures.
const generations = 50

// byGeneration captures one guest again and again; 3 % of its pages change at
// random each time, the hardest case for reading back. Some of them were zero,
// so there is also more to read.
func (b *bench) byGeneration() ([]chart, error) {
	root, env := b.home("generations")
	dir := filepath.Join(b.work, "generation")
	ram := b.ram(b.bytes/8, 7)
	stored, changed := curve{name: "stored anew"}, curve{name: "3 % of RAM"}
	export, fresh := curve{name: "with 0 … 50 ancestors"}, curve{name: "the same, no ancestor"}
	for gen := range generations + 1 {
		if err := folder(dir, ram); err != nil {
			return nil, err
		}
		argv := []string{b.cocoon, "snapshot", "import", dir, "--name", fmt.Sprint("gen", gen)}
		if gen > 0 {
			argv = append(argv, "--parent", fmt.Sprint("gen", gen-1))
		}
		if _, err := timed(env, argv...); err != nil {
			return nil, err
		}
		got, err := b.inspect(env, fmt.Sprint("gen", gen))
		if err != nil {
			return nil, err
		}
		out, err := b.exportsOf(env, fmt.Sprint("gen", gen))
		if err != nil {
			return nil, err
		}
		if gen > 0 {
			stored.add(float64(gen), float64(got.Capture.PagesNew)*ramgen.PageSize/(1<<20))
			changed.add(float64(gen), 0.03*float64(ram.Bytes())/(1<<20))
		}
		export.add(float64(gen), float64(out.busy().Milliseconds()))
		if gen%10 == 0 {
			t, err := b.exportFresh(dir)
			if err != nil {
				return nil, err
			}
			fresh.add(float64(gen), float64(t.busy().Milliseconds()))
		}
		ram = ram.Mutate(0.03, uint64(100+gen))
		if err := removeAll(dir); err != nil {
			return nil, err
		}
	}
	size := mib(b.bytes / 8)
	return []chart{
		{title: "Pages stored by each capture of one VM, RAM " + size, x: "generation", y: "MiB before compression", lines: []curve{stored, changed}},
		{title: "Reading a generation back, RAM " + size, x: "generation", y: "processor time, ms", lines: []curve{export, fresh}},
	}, removeAll(root)
}

// exportFresh reads back the RAM of a folder from a store that has nothing else.
func (b *bench) exportFresh(dir string) (series, error) {
	root, env := b.home("fresh")
	if _, err := timed(env, b.cocoon, "snapshot", "import", dir, "--name", "fresh"); err != nil {
		return nil, err
	}
	s, err := b.exportsOf(env, "fresh")
	if err != nil {
		return nil, err
	}
	return s, removeAll(root)
}

// exportsOf reads a snapshot's RAM back as often as every figure is taken.
func (b *bench) exportsOf(env []string, name string) (s series, err error) {
	for range b.runs {
		if err := s.add(b.exportOf(env, name)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}
