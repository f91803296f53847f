package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

// peer is a tool that keeps several states of an image. Its commands run in a
// folder of its own; states are "first" and "second".
type peer struct {
	name     string
	env      []string
	prepare  []string                            // not measured; nil: none
	save     func(state, image string) []string  // image is the raw file
	restore  func(state, target string) []string // target is a folder on tmpfs
	inTarget bool                                // restore runs in target
}

// peerFigures are the runs of one tool.
type peerFigures struct {
	first, second, restore series
	stored, anew           int64
}

// peers prints what each tool takes for the same two states of one image.
func (b *bench) peers(restic, images string) error {
	pair, err := b.imagePair(images)
	if err != nil {
		return err
	}
	tools := b.tools(restic)
	figures := make([]peerFigures, len(tools))
	for range b.runs {
		for i, p := range tools {
			if err := b.measure(&p, pair, &figures[i]); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	fmt.Printf("machine: %s; %s of RAM; clock (processor time), medians of %d runs that take turns; restores to tmpfs, compared byte by byte\n\n", cpuModel(), mib(pair.bytes), b.runs)
	fmt.Println("| tool | first capture | stored | second capture | stored anew | restore of the second |")
	fmt.Println("|---|---|---|---|---|---|")
	for i, f := range figures {
		both := func(s series) string { return ms(s.wall()) + " (" + ms(s.busy()) + ")" }
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", tools[i].name, both(f.first), mib(f.stored), both(f.second), mib(f.anew), both(f.restore))
	}
	return nil
}

// imagePair is the raw files of both states.
type imagePair struct {
	first, second string
	bytes         int64
}

// imagePair takes two files, or makes a generated guest and its later state.
func (b *bench) imagePair(images string) (imagePair, error) {
	paths := strings.Split(images, ",")
	if images == "" {
		paths = []string{filepath.Join(b.work, "first.raw"), filepath.Join(b.work, "second.raw")}
		ram := b.ram(b.bytes, 7)
		if err := errors.Join(ram.WriteFile(paths[0], false), ram.Mutate(0.07, 8).WriteFile(paths[1], false)); err != nil {
			return imagePair{}, err
		}
	}
	if len(paths) != 2 {
		return imagePair{}, fmt.Errorf("-images %s: two files are expected, an earlier and a later state", images)
	}
	var sizes []int64
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err != nil {
			return imagePair{}, err
		}
		sizes = append(sizes, fi.Size())
	}
	if sizes[0] != sizes[1] || sizes[0]%ramgen.PageSize != 0 || sizes[0] == 0 {
		return imagePair{}, fmt.Errorf("-images %s: both need the same length, a multiple of %d", images, ramgen.PageSize)
	}
	return imagePair{paths[0], paths[1], sizes[0]}, nil
}

// measure runs one tool once, from nothing.
func (b *bench) measure(p *peer, pair imagePair, f *peerFigures) error {
	home := filepath.Join(b.work, "peer")
	target, err := os.MkdirTemp("/dev/shm", "cocoon-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(target)
	defer os.RemoveAll(home)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	if p.prepare != nil {
		if _, err := timed(p.env, p.prepare...); err != nil {
			return err
		}
	}
	before := treeBytes(home)
	if err := f.first.add(timed(p.env, p.save("first", pair.first)...)); err != nil {
		return err
	}
	f.stored = treeBytes(home) - before
	if err := f.second.add(timed(p.env, p.save("second", pair.second)...)); err != nil {
		return err
	}
	f.anew = treeBytes(home) - before - f.stored
	run := timed
	if p.inTarget {
		run = func(env []string, argv ...string) (took, error) { return timedIn(target, env, argv...) }
	}
	if err := f.restore.add(run(p.env, p.restore("second", target)...)); err != nil {
		return err
	}
	return restored(target, pair)
}

// restored finds the one file of the image's length below target and compares.
func restored(target string, pair imagePair) error {
	var found string
	err := filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Size() == pair.bytes {
			found = path
		}
		return err
	})
	if err != nil {
		return err
	}
	if found == "" {
		return errors.New("nothing of the image's length was restored")
	}
	a, err := os.Open(found)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(pair.second)
	if err != nil {
		return err
	}
	defer b.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(a, x)
		if _, err2 := io.ReadFull(b, y[:n]); err2 != nil && n > 0 {
			return err2
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return errors.New("what was restored differs from the image")
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// treeBytes sums the lengths of the files below dir.
func treeBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				sum += fi.Size()
			}
		}
		return nil
	})
	return sum
}
