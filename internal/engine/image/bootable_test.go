package image

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/guest"
)

func at(offset int, magic string) []byte {
	b := make([]byte, 4096)
	copy(b[offset:], magic)
	return b
}

func TestOnlyWhatAVMMLoadsIsAKernel(t *testing.T) {
	for name, c := range map[string]struct {
		head     []byte
		amd64    string // the roles that it may have
		elsewise string
	}{
		"the test guest": {guest.ELF(), "kernel firmware", "firmware"},
		"ELF":            {at(0, "\x7fELF"), "kernel firmware", "firmware"},
		"bzImage":        {at(0x202, "HdrS"), "kernel firmware", "firmware"},
		"Image":          {at(0x38, "ARM\x64"), "", "kernel firmware"},
		"zeros":          {make([]byte, 4096), "", "firmware"},
		"nothing":        {nil, "", "firmware"},
		"half a word":    {[]byte("\x7fEL"), "", "firmware"},
		"gzip":           {at(0, "\x1f\x8b"), "", "firmware"},
		"qcow2":          {at(0, "QFI\xfb"), "", "firmware"},
	} {
		for arch, may := range map[string]string{"amd64": c.amd64, "arm64": c.elsewise} {
			for _, role := range []string{"kernel", "firmware"} {
				err := bootable(c.head, "FILE", role, arch)
				if want := strings.Contains(may, role); want != (err == nil) || err != nil && !errors.Is(err, failure.Usage) {
					t.Errorf("%s as %s for %s: %v", name, role, arch, err)
				}
			}
		}
	}
}

func TestAFileThatIsNoKernelLeavesNothing(t *testing.T) {
	s, l := images(t)
	zeros := file(t, make([]byte, 1<<20))
	f, err := os.Open(zeros)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, role := range []string{"kernel", "firmware"} {
		_, byPath := s.Blob(t.Context(), l, zeros, role)
		_, opened := s.BlobOf(t.Context(), l, f, role)
		if !errors.Is(byPath, failure.Usage) || !errors.Is(opened, failure.Usage) || !strings.Contains(byPath.Error(), zeros+" is no "+role) {
			t.Errorf("%s: %v; %v", role, byPath, opened)
		}
	}
	for _, dir := range []string{s.st.Path("ingest", l.ID()), s.st.Path("images", "blobs", "sha256")} {
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
	if _, err := s.Blob(t.Context(), l, zeros, "initramfs"); err != nil {
		t.Errorf("the guest's kernel judges an initramfs: %v", err)
	}
}
