package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// newMaterialise is the hidden command that makes the raw RAM file of a snapshot
// ahead of its next clone, at idle priority.
func newMaterialise(a *app) *cobra.Command {
	return &cobra.Command{
		Use: house.MaterialiseVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := idlePriority(); err != nil {
				return err
			}
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			_, err = r.Restorer.Materialise(c.Context(), args[0])
			return err
		},
	}
}

// From linux/ioprio.h.
const (
	ioprioWhoGroup  = 2
	ioprioClassIdle = 3 << 13
)

// idlePriority yields to every other process of the host, for the processor and
// the disk. It applies to the process group, since otherwise only the calling
// thread would be affected; and only to a group that it leads, since it must not
// slow others.
func idlePriority() error {
	if unix.Getpgrp() != os.Getpid() {
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, 19); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoGroup, 0, ioprioClassIdle); errno != 0 && errno != unix.ENOSYS {
		return fmt.Errorf("lower the priority of the disk: %w", errno)
	}
	return nil
}
