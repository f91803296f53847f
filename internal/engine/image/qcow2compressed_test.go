package image

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// deflated is small with cluster 2 compressed, and further entries that name the
// same bytes.
func deflated(entries ...int) []byte {
	b := small()
	var c bytes.Buffer
	w, _ := flate.NewWriter(&c, flate.BestCompression) // fails for a wrong level alone
	w.Write(bytes.Repeat([]byte{'x'}, 1<<16))
	w.Close()
	const at = 3<<16 + 100 // not at a sector's begin
	clear(b[3<<16:])
	copy(b[at:], c.Bytes())
	sectors := uint64(at%512+c.Len()-1) / 512
	for _, i := range append(entries, 2) {
		binary.BigEndian.PutUint64(b[2<<16+8*i:], 1<<62|sectors<<(62-8)|at)
	}
	return b
}

func compressedTwice() []byte { return deflated(1) }

func TestACompressedClusterIsRead(t *testing.T) {
	s, l := images(t)
	rec, err := s.Import(t.Context(), l, file(t, deflated()), "disk")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.Path(rec.ID))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4<<16)
	copy(want[2<<16:], bytes.Repeat([]byte{'x'}, 1<<16))
	if !bytes.Equal(got, want) {
		t.Error("the raw disk differs from what the qcow2 holds")
	}
}

// TestWhatQemuCompressedIsRead takes images as vendors make them.
func TestWhatQemuCompressedIsRead(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("no qemu-img on PATH (Debian: qemu-utils)")
	}
	want := make([]byte, 5<<20+512)
	noise := rand.NewChaCha8([32]byte{1})
	noise.Read(want[1<<20 : 1<<20+300_000])
	copy(want[3<<20:], bytes.Repeat([]byte("a line of text\n"), 50_000))
	for _, kind := range []string{"zlib", "zstd"} {
		for _, cluster := range []string{"4k", "64k", "2M"} {
			t.Run(kind+" "+cluster, func(t *testing.T) {
				raw := file(t, want)
				out := filepath.Join(t.TempDir(), "vendor.qcow2")
				cmd := exec.Command(qemu, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type="+kind+",cluster_size="+cluster, raw, out)
				if b, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, b)
				}
				s, l := images(t)
				rec, err := s.Import(t.Context(), l, out, "disk")
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(s.Path(rec.ID))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Error("the raw disk differs from what was compressed")
				}
			})
		}
	}
}
