package chsnap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestWhatTheVMMTakesARawDiskFor by the bytes at its ends.
func TestWhatTheVMMTakesARawDiskFor(t *testing.T) {
	footer := make([]byte, 512)
	copy(footer, "conectix")
	binary.BigEndian.PutUint32(footer[12:], 0x10000)
	binary.BigEndian.PutUint64(footer[16:], 1<<64-1)
	binary.BigEndian.PutUint32(footer[60:], 2)
	dynamic := bytes.Clone(footer)
	dynamic[63] = 3
	at := func(size, off int, b []byte) []byte {
		disk := make([]byte, size)
		copy(disk[off:], b)
		return disk
	}
	for _, c := range []struct {
		disk []byte
		want string
	}{
		{nil, ""},
		{at(1<<20, 0, nil), ""},
		{at(1<<20, 0, []byte("QFI\xfb")), "qcow2"},
		{at(1<<20, 512, []byte("QFI\xfb")), ""},
		{at(1<<20, 0, []byte("vhdxfile")), "VHDX"},
		{at(1<<20, 1<<20-512, footer), "fixed VHD"},
		{at(1<<20, 0, footer), ""},
		{at(1<<20, 1<<20-512, dynamic), ""},
		{at(1<<20, 0, []byte("# Disk DescriptorFile\nversion=1\n")), "VMDK descriptor"},
		{at(100, 0, []byte("QFI\xfb")), "qcow2"},
		{at(1<<20, 0, []byte("EFI PART")), ""},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, c.disk, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CheckRaw(path); errors.Is(err, failure.Incompatible) != (c.want != "") || err != nil && !strings.Contains(err.Error(), "like a "+c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
}
