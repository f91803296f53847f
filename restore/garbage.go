package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Garbage is the Source of journals: restores whose process died are undone.
// Forget drops the network of a VM whose plugins cannot undo it.
func (e *Engine) Garbage(forget func(ctx context.Context, vm string) error) garbage.Source {
	return garbage.Source{Folder: "journals", Undo: func(ctx context.Context, u garbage.Undoing) error {
		files, err := layout.JSONFiles(e.Store.Path("journals"))
		if err != nil {
			return err
		}
		for _, path := range files {
			if err := e.recoverDead(ctx, u, path, forget); err != nil {
				return err
			}
		}
		return nil
	}}
}

// recoverDead undoes a restore whose VM no living lease names.
func (e *Engine) recoverDead(ctx context.Context, u garbage.Undoing, path string, forget func(context.Context, string) error) error {
	j, err := readJournal(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // finished just now
	}
	if err != nil {
		return err
	}
	if making, err := u.Making(ctx, j.VM); err != nil || making {
		return err
	}
	const why = "a restore that died half-way"
	if u.DryRun() { // its entry in the run folder is reported separately
		u.Undone(garbage.Journal, j.VM, why)
		return nil
	}
	ended, err := e.processesOf(ctx, j.VM)
	if err != nil {
		return err
	}
	err = e.Recover(ctx, path)
	if err != nil && forget != nil && u.GivenUp(j.VM) {
		if err = forget(ctx, j.VM); err == nil {
			err = e.Recover(ctx, path)
		}
	}
	if err != nil {
		u.NotUndone(garbage.Journal, j.VM, why, fmt.Errorf("undo restore of VM %s: %w", j.VM, err))
		return nil
	}
	for _, pid := range ended {
		u.Undone(garbage.Process, strconv.Itoa(pid), "VMM of VM "+j.VM+", whose restore died half-way")
	}
	u.Undone(garbage.Journal, j.VM, why)
	return nil
}

// processesOf are the VMMs of a VM that is about to be undone.
func (e *Engine) processesOf(ctx context.Context, id string) (pids []int, err error) {
	if err := e.complete(); err != nil {
		return nil, err
	}
	all, err := e.VMs.Standing(ctx)
	for _, s := range all {
		if s.ID == id && s.Mine {
			pids = append(pids, s.PIDs...)
		}
	}
	return pids, err
}
