package image

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestOnlyARawDiskIsRaw: a wrapping is told by its magic bytes wherever a disk is
// taken as it is, and only qcow2 is unwrapped by an import.
func TestOnlyARawDiskIsRaw(t *testing.T) {
	at := func(offset int, magic string) []byte {
		b := make([]byte, 8192)
		copy(b[offset:], magic)
		return b
	}
	for _, c := range []struct {
		name string
		disk []byte
		hint string
	}{
		{"qcow2", small(), "cocoon image import"},
		{"VHDX", at(0, "vhdxfile"), "qemu-img convert"},
		{"VMDK", at(0, "KDMV"), "qemu-img convert"},
		{"VMDK", at(0, "# Disk DescriptorFile\n"), "qemu-img convert"},
		{"VHD", at(0, "conectix"), "qemu-img convert"},
		{"VHD", at(8192-512, "conectix"), "qemu-img convert"},
		{"VDI", at(0x40, "\x7f\x10\xda\xbe"), "qemu-img convert"},
		{"QED", at(0, "QED\x00"), "qemu-img convert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := file(t, c.disk)
			err := (*Store).RequireRaw(nil, path)
			if !errors.Is(err, failure.Usage) || !strings.Contains(err.Error(), c.name) || !strings.Contains(failure.HintOf(err), c.hint) {
				t.Errorf("as a disk: %v (hint %q)", err, failure.HintOf(err))
			}
			s, l := images(t)
			_, err = s.Import(t.Context(), l, path, "x")
			if c.name == "qcow2" {
				if err != nil {
					t.Errorf("import: %v", err)
				}
				return
			}
			if !errors.Is(err, failure.Incompatible) || !strings.Contains(err.Error(), c.name) {
				t.Errorf("import: %v", err)
			}
		})
	}
	if err := (*Store).RequireRaw(nil, file(t, make([]byte, 8192))); err != nil {
		t.Errorf("a raw disk: %v", err)
	}
	for path, class := range map[string]error{"/dev/null": failure.Usage, filepath.Join(t.TempDir(), "none"): failure.NotFound, file(t, make([]byte, 100)): failure.Usage} {
		if err := (*Store).RequireRaw(nil, path); !errors.Is(err, class) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
