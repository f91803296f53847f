package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/runfolder"
)

// materialiseVerb is the hidden command that makes the raw RAM file of a
// snapshot ahead of its next clone, at idle priority.
const materialiseVerb = "__materialise"

func newMaterialise(a *app) *cobra.Command {
	return &cobra.Command{
		Use: materialiseVerb, Hidden: true, Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := idlePriority(); err != nil {
				return err
			}
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			_, err = r.restore.Materialise(c.Context(), args[0])
			return err
		},
	}
}

// From linux/ioprio.h.
const (
	ioprioWhoGroup  = 2
	ioprioClassIdle = 3 << 13
)

// idlePriority gives way to every other process of the host, for the processor
// and for the disk. It asks for the process group, for else only the calling
// thread would be meant; for one that it leads, since others are not its to slow.
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

// materialiseAhead starts it as a process of its own that outlives this command.
// It holds a lease while it works, so that what it reads stays; killed, it
// leaves a file that gc takes. That it could not be started is told, but is no
// reason to fail: the VM runs.
func (a *app) materialiseAhead(ctx context.Context, snapshot string) {
	if a.set("cacheAhead") != "on" {
		return
	}
	pid, err := a.startAhead(ctx, snapshot)
	if err != nil {
		a.log.Warn("the RAM for further clones is not made ahead", "error", oneLine(err))
		return
	}
	a.log.Debug("making the RAM for further clones", "snapshot", snapshot, "pid", pid)
}

func (a *app) startAhead(ctx context.Context, snapshot string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	log, err := runfolder.New(a.set("runDir"), nil).Append("materialise.log")
	if err != nil {
		return 0, err
	}
	defer log.Close()
	if fi, err := log.Stat(); err == nil && fi.Size() > 1<<20 {
		if err := log.Truncate(0); err != nil {
			return 0, err
		}
	}
	args := []string{
		materialiseVerb, snapshot,
		"--root-dir", a.set("rootDir"), "--run-dir", a.set("runDir"), "--hypervisor", a.set("hypervisor"), "--cache-max-bytes", a.set("cacheMaxBytes"),
	}
	if keys := a.set("keyFile"); keys != "" {
		args = append(args, "--key-file", keys)
	}
	c := exec.CommandContext(context.WithoutCancel(ctx), self, args...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return 0, err
	}
	return c.Process.Pid, c.Process.Release()
}

// cacheCap reads cacheMaxBytes: a size, or 0 to keep nothing that is not mapped.
func (a *app) cacheCap() (int64, error) {
	v := a.set("cacheMaxBytes")
	if v == "0" {
		return 0, nil
	}
	return parseSize("cacheMaxBytes", v)
}

// checkCacheAhead refuses what is neither on nor off.
func (a *app) checkCacheAhead() error {
	if v := a.set("cacheAhead"); v != "on" && v != "off" {
		return failure.New(failure.Usage, "cacheAhead %q: on or off", v)
	}
	return nil
}
