package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// requireBootable refuses a kernel or firmware that no VMM boots, before there is
// a VM that cannot start. Cloud Hypervisor (v53) loads ELF and bzImage on x86-64,
// for firmware too, and PE kernels on arm64, where firmware can be any file.
// Errors inside such a file are reported by the VMM at the start.
func (s *staged) requireBootable(path, role string) error {
	if role != "kernel" && role != "firmware" {
		return nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 1024)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return bootable(head[:n], path, role, runtime.GOARCH)
}

func bootable(head []byte, path, role, arch string) error {
	kind, format := magic(head)
	fits := kind == "kernel" && format != "Image"
	if arch != "amd64" {
		fits = role == "firmware" || format == "Image"
	}
	if fits {
		return nil
	}
	wanted := "an ELF file (vmlinux, CLOUDHV.fd) or a bzImage (vmlinuz)"
	if arch != "amd64" {
		wanted = "an uncompressed Image"
	}
	is := ""
	if format != "" {
		is = fmt.Sprintf(" but %s", format)
	}
	return failure.Hint(failure.New(failure.Usage, "%s is no %s: it is not %s%s", path, role, wanted, is),
		hint.ImportImage.Of("FILE")+" takes disks; file "+path+" says what it is")
}
