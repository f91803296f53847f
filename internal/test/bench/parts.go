package main

import (
	"bufio"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

// parts measures what others' code takes for the parts of a figure, each alone:
// compressing what changed, hashing to see what did, writing to the disk.
type parts struct {
	changed, nonZero, scratch string // files of pages, one after the other
	zstd, hash, disk          series
}

func newParts(dir string, before, after *ramgen.Image) (*parts, error) {
	p := &parts{changed: filepath.Join(dir, "changed"), nonZero: filepath.Join(dir, "nonzero"), scratch: filepath.Join(dir, "parts.scratch")}
	zero := make([]byte, ramgen.PageSize)
	if err := writePages(p.nonZero, after, func(_ int64, page []byte) bool { return string(page) != string(zero) }); err != nil {
		return nil, err
	}
	was := make([]byte, ramgen.PageSize)
	return p, writePages(p.changed, after, func(n int64, page []byte) bool {
		before.Page(was, n)
		return string(page) != string(was)
	})
}

// measure does each part once.
func (p *parts) measure() error {
	if err := p.zstd.add(timed(nil, "zstd", "-1", "-T2", "-q", "-f", p.changed, "-o", p.changed+".zst")); err != nil {
		return err
	}
	if err := p.hash.add(hashed(p.nonZero, 2)); err != nil {
		return err
	}
	if err := p.disk.add(timed(nil, "dd", "if="+p.nonZero, "of="+p.scratch, "bs=1M", "conv=fsync")); err != nil {
		return err
	}
	return os.Remove(p.scratch)
}

// hashed takes the SHA-256 of each page of a file, in slices side by side.
func hashed(path string, slices int64) (took, error) {
	f, err := os.Open(path)
	if err != nil {
		return took{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return took{}, err
	}
	start := time.Now()
	var g errgroup.Group
	each := st.Size() / ramgen.PageSize / slices * ramgen.PageSize
	for i := range slices {
		g.Go(func() error {
			r := bufio.NewReaderSize(io.NewSectionReader(f, i*each, each), 64<<10)
			page := make([]byte, ramgen.PageSize)
			for {
				if _, err := io.ReadFull(r, page); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				sha256.Sum256(page)
			}
		})
	}
	err = g.Wait()
	return took{wall: time.Since(start)}, err
}

// writePages writes those pages of an image that are wanted.
func writePages(path string, im *ramgen.Image, want func(n int64, page []byte) bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	page := make([]byte, ramgen.PageSize)
	for n := range im.Bytes() / ramgen.PageSize {
		im.Page(page, n)
		if !want(n, page) {
			continue
		}
		if _, err := w.Write(page); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
