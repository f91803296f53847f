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

// bootFiles takes in what the VM of a folder boots from: the operator's files,
// else those that config.json names. RAM has no need of them, so one that is not
// to be had makes a VM that cannot boot, and no refusal. Then none is taken: a
// kernel without its initramfs would be another system.
func (m *Importer) bootFiles(ctx context.Context, lease *store.Lease, folder *folder, c *chsnap.Config, rec *vm.Record) error {
	found, err := folder.bootFiles(c.Payload())
	var absent *absentError
	if errors.As(err, &absent) {
		folder.note(fmt.Sprintf("taken in without cold boot: %v", err), absent.hint)
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

// placeOf is what stands in config.json for a file whose place is the restore's
// affair.
func placeOf(ref *store.ImageRef) string {
	if ref == nil {
		return ""
	}
	return "/" + ref.Role
}

// bootFiles opens, by role, what the VM boots from and the operator gave no other
// for.
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

// absentError: a file that config.json names is not in the folder.
type absentError struct {
	error
	orTrust string // of one that lies elsewhere
	hint    string
}

func (e *absentError) Unwrap() error { return e.error }
