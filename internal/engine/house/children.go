package house

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
)

// Hidden verbs of the program: processes started by cocoon itself. Package keeper
// has one more, Verb.
const (
	GuardVerb       = "__guard"       // resumes a guest paused by this process if it dies
	RescueVerb      = "__rescue"      // wakes a VM put aside by this process if it dies
	MaterialiseVerb = "__materialise" // makes the RAM file of a snapshot ahead of its next clone
)

func (h *House) guardCommand() chsnap.GuardCommand {
	return chsnap.GuardCommand{Argv: []string{h.o.Program, GuardVerb}, Stderr: h.o.Stderr}
}

// startRescue starts the guard of a VM that is put aside, with our settings.
func (h *House) startRescue(ctx context.Context, id string) (release func(), err error) {
	wait, err := h.o.Settings.Patience()
	if err != nil {
		return nil, err
	}
	g, err := chsnap.Watch(wait, h.o.Stderr, func() *exec.Cmd {
		cmd := exec.Command(h.o.Program, RescueVerb, id)
		cmd.Env = h.environment()
		return cmd
	})
	if err != nil {
		return nil, err
	}
	if err := g.Arm(ctx); err != nil {
		g.Release()
		return nil, err
	}
	return g.Release, nil
}

// environment is ours, with each setting at its final value.
func (h *House) environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COCOON_") {
			env = append(env, e)
		}
	}
	for _, s := range config.Settings() {
		if strings.HasPrefix(s.Key, "prune.") {
			continue // no child prunes, and a list of the file may have commas in its elements
		}
		if v := h.o.Settings.Of(s.Key); s.Env != "" && v != "" {
			env = append(env, s.Env+"="+v)
		}
	}
	return env
}

// materialiseAhead makes the RAM file of a snapshot for its next clone, in a
// process of its own that outlives this one. It holds a lease while it works, so
// that what it reads stays; if killed, it leaves a file that gc removes. A
// failure to start it is reported, but is no reason to fail: the VM runs.
func (h *House) materialiseAhead(ctx context.Context, snapshot string) {
	if h.o.Settings.Of("cacheAhead") != "on" {
		return
	}
	pid, err := h.startAhead(ctx, snapshot)
	if err != nil {
		h.o.Log.Warn("the RAM for further clones is not made ahead", "error", oneLine(err))
		return
	}
	h.o.Log.Debug("making the RAM for further clones", "snapshot", snapshot, "pid", pid)
}

func (h *House) startAhead(ctx context.Context, snapshot string) (int, error) {
	log, err := runfolder.New(h.o.Settings.Of("runDir"), nil).Append("materialise.log")
	if err != nil {
		return 0, err
	}
	defer log.Close()
	if fi, err := log.Stat(); err == nil && fi.Size() > 1<<20 {
		if err := log.Truncate(0); err != nil {
			return 0, err
		}
	}
	c := exec.CommandContext(context.WithoutCancel(ctx), h.o.Program, MaterialiseVerb, snapshot)
	c.Env = h.environment()
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return 0, err
	}
	go func() { _ = c.Wait() }() // its log says how it went
	return c.Process.Pid, nil
}
