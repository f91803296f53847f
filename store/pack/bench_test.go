package pack

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cocoonv2/cocoon/internal/ramgen"
)

// benchBytes is the size of the benchmarks' image: BENCH_BYTES or 1 GiB.
func benchBytes(b *testing.B) int64 {
	if s := os.Getenv("BENCH_BYTES"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return 1 << 30
}

// benchDir prefers RAM: the disk's speed is not what is measured.
func benchDir(b *testing.B) string {
	if dir, err := os.MkdirTemp("/dev/shm", "pack-bench"); err == nil {
		b.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return b.TempDir()
}

func benchFile(b *testing.B, im *ramgen.Image) *os.File {
	b.Helper()
	path := filepath.Join(benchDir(b), "ram")
	if err := im.WriteFile(path, false); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// report adds what the figures of a capture are read for.
func report(b *testing.B, size int64, st Stats, m *Map) {
	b.SetBytes(size)
	enc, err := m.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.StoredBytes), "stored-B")
	b.ReportMetric(float64(len(enc)), "map-B")
	b.ReportMetric(float64(st.PagesNew), "new-pages")
}

func BenchmarkFirstCapture(b *testing.B) {
	size := benchBytes(b)
	f := benchFile(b, ramgen.New(size, 1))
	s := folder{benchDir(b)}
	for b.Loop() {
		m, st := save(b, s, f, size, nil)
		b.StopTimer()
		report(b, size, st, m)
		s.empty(b, nil)
		b.StartTimer()
	}
}

// BenchmarkSecondCapture captures again after 7 % of all pages changed.
func BenchmarkSecondCapture(b *testing.B) {
	size := benchBytes(b)
	ram := ramgen.New(size, 1)
	s := folder{benchDir(b)}
	first, _ := save(b, s, ram, size, nil)
	f := benchFile(b, ram.Mutate(0.07, 2))
	for b.Loop() {
		parent, err := OpenImage(b.Context(), first, s)
		if err != nil {
			b.Fatal(err)
		}
		m, st := save(b, s, f, size, parent)
		b.StopTimer()
		parent.Close()
		report(b, size, st, m)
		s.empty(b, first)
		b.StartTimer()
	}
}

// BenchmarkRestore expands an image into a fresh file.
func BenchmarkRestore(b *testing.B) {
	size := benchBytes(b)
	s := folder{benchDir(b)}
	m, _ := save(b, s, ramgen.New(size, 1), size, nil)
	path := filepath.Join(benchDir(b), "out")
	b.SetBytes(size)
	for b.Loop() {
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			b.Fatal(err)
		}
		im := open(b, s, m)
		if err := im.WriteTo(b.Context(), f, 0, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		f.Close()
		os.Remove(path)
		b.StartTimer()
	}
}
