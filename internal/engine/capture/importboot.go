package capture

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// bootFiles imports the boot files for a folder's VM: the operator's, else those
// named in config.json. Its RAM does not need them, so a missing one makes a VM
// that cannot boot, rather than a refusal. Then none is imported: a kernel
// without its initramfs would be a different system.
func (m *Importer) bootFiles(ctx context.Context, lease *store.Lease, folder *folder, c *chsnap.Config, rec *vm.Record) error {
	found, err := folder.bootFiles(c.Payload())
	var absent *absentError
	if errors.As(err, &absent) {
		folder.note(fmt.Sprintf("imported without cold boot: %v", err), absent.hint)
		return c.SetPayload("", "", "")
	}
	if err != nil {
		return err
	}
	if err := rec.BootWith(ctx, lease, m.Images, folder.boot); err != nil {
		return err
	}
	for role, file := range found {
		ref, err := m.Images.BlobOf(ctx, lease, file, role)
		if err != nil {
			return fmt.Errorf("%s named by config.json: %w", role, err)
		}
		rec.AddBootFile(ref)
	}
	return c.SetPayload(placeOf(rec.Kernel), placeOf(rec.Firmware), placeOf(rec.Initramfs))
}

// placeOf is the placeholder in config.json for a file whose path the restore
// decides.
func placeOf(ref *store.ImageRef) string {
	if ref == nil {
		return ""
	}
	return "/" + ref.Role
}

// bootFiles opens, by role, the boot files that the operator has not replaced.
func (f *folder) bootFiles(p chsnap.Payload) (map[string]*os.File, error) {
	if f.boot.Kernel != "" {
		p.Kernel, p.Firmware = "", ""
	}
	if f.boot.Firmware != "" {
		p = chsnap.Payload{}
	}
	if f.boot.Initramfs != "" {
		p.Initramfs = ""
	}
	found := map[string]*os.File{}
	for role, path := range map[string]string{"kernel": p.Kernel, "firmware": p.Firmware, "initramfs": p.Initramfs} {
		if path == "" {
			continue
		}
		file, err := f.find(path)
		var absent *absentError
		if errors.As(err, &absent) {
			absent.hint = "take it in again with --" + role + " PATH" + absent.orTrust
		}
		if err != nil {
			return nil, fmt.Errorf("%s named by config.json: %w", role, err)
		}
		found[role] = file
	}
	return found, nil
}

// absentError: a file named in config.json is not in the folder.
type absentError struct {
	error
	orTrust string // of one that lies elsewhere
	hint    string
}

func (e *absentError) Unwrap() error { return e.error }
