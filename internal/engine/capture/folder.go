package capture

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
)

// folder is an untrusted snapshot folder, which may still be changing: every file
// is opened once, below root, and read by its descriptor.
type folder struct {
	root   *os.Root
	trust  bool // paths outside are trusted
	boot   vm.BootPaths
	note   func(text, hint string)
	opened []*os.File
}

func openFolder(req ImportRequest) (*folder, error) {
	root, err := chsnap.OpenFolder(req.Dir)
	if err != nil {
		return nil, err
	}
	f := &folder{root: root, trust: req.TrustPaths, boot: req.Boot, note: req.OnNote}
	if f.note == nil {
		f.note = func(string, string) {}
	}
	if err := f.looked(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// looked refuses a folder without any part of a snapshot: it is probably the
// wrong one.
func (f *folder) looked() error {
	for _, name := range []string{"config.json", "state.json"} {
		if _, err := f.root.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return failure.New(failure.Usage, "%s is neither an OCI image layout (there is no oci-layout) nor a Cloud Hypervisor snapshot (no config.json, no state.json)", f.root.Name())
}

func (f *folder) close() {
	for _, file := range f.opened {
		file.Close()
	}
	f.root.Close()
}

// vmName is the VM name for the folder, which contains none.
func (f *folder) vmName() string { return filepath.Base(filepath.Clean(f.root.Name())) }

// find opens a file named in config.json: preferably the one of the same base
// name in the folder. Links and special files are refused everywhere.
func (f *folder) find(named string) (*os.File, error) {
	file, err := durable.OpenRegular(f.root, filepath.Base(named))
	if f.trust && errors.Is(err, os.ErrNotExist) {
		file, err = openOutside(named)
	}
	switch {
	case err == nil:
		f.opened = append(f.opened, file)
		return file, nil
	case errors.Is(err, failure.Damaged):
		return nil, failure.New(failure.Incompatible, "%v", err)
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if _, err := os.Lstat(named); err == nil && !f.trust {
		err := failure.Hint(failure.New(failure.Incompatible, "%s is outside the snapshot folder", named),
			"copy it into the folder, or say "+hint.TrustPaths.Of()+" if you know who made the folder")
		return nil, &absentError{error: err, orTrust: ", or with " + hint.TrustPaths.Of() + " if you know who made the folder"}
	}
	if f.trust {
		return nil, &absentError{error: failure.New(failure.NotFound, "%s is neither in the folder nor there", named)}
	}
	err = failure.New(failure.NotFound, "%s: no such file", filepath.Join(f.root.Name(), filepath.Base(named)))
	return nil, &absentError{error: err}
}

func openOutside(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			err = os.ErrNotExist
		}
		return nil, err
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = failure.New(failure.Incompatible, "%s is not a regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
