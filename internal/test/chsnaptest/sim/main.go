package sim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// VersionLine is what --version prints of a build.
func VersionLine(build string) string { return "cloud-hypervisor " + build }

// Main is the whole process: it parses, binds the socket, boots or restores what
// the command line names and serves until the VMM or the guest ends. It returns
// an exit status only when it could not start: 2 for a wrong command line, 1 for
// the rest. Later ends leave through os.Exit.
func Main(args, env []string, stdout, stderr io.Writer) int {
	o, err := parseArgs(args)
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "error: %v\n\nFor more information, try '--help'.\n", err)
		return 2
	case err != nil:
		return fatal(stderr, "Error parsing config", err)
	}
	set, err := readSettings(env)
	if err != nil {
		return fatal(stderr, "Error reading the environment", err)
	}
	if o.versionOnly {
		fmt.Fprintln(stdout, VersionLine(set.build))
		return 0
	}
	return run(o, set, stdout, stderr)
}

// readSettings reads the CHSIM_ variables.
func readSettings(env []string) (settings, error) {
	values := map[string]string{}
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok {
			values[k] = v
		}
	}
	set := settings{fill: 64 << 20, tick: 10 * time.Millisecond, version: Version, build: buildVersion}
	set.powerButton, set.nmi, set.noise = values["CHSIM_POWER_BUTTON"], values["CHSIM_NMI"], values["CHSIM_NOISE"]
	var err error
	if v := values["CHSIM_FILL"]; v != "" {
		if set.fill, err = parseBytes(v); err != nil {
			return set, fmt.Errorf("CHSIM_FILL: %w", err)
		}
	}
	if v := values["CHSIM_VERSION"]; v != "" {
		set.version, set.build = v, "v"+v
	}
	if v := values["CHSIM_BUILD"]; v != "" {
		set.build = v
	}
	if v := values["CHSIM_TICK"]; v != "" {
		if set.tick, err = time.ParseDuration(v); err != nil || set.tick <= 0 {
			return set, fmt.Errorf("CHSIM_TICK %q: not a positive duration", v)
		}
	}
	set.fail, err = parseFailpoints(values["CHSIM_FAIL"])
	return set, err
}

// run binds the socket, starts what the options name and serves for ever.
func run(o *options, set settings, stdout, stderr io.Writer) int {
	socket := o.socket
	m := &machine{settings: set, stdout: stdout, exit: os.Exit}
	clean := func(code int) {
		m.event("vmm", "shutdown", "")
		if socket != "" {
			_ = os.Remove(socket)
		}
		os.Exit(code)
	}
	s := &server{machine: m, exit: clean}
	if o.events != "" {
		var err error
		if m.events, err = openEvents(o.events); err != nil {
			return fatal(stderr, "Error opening the event monitor", err)
		}
	}
	m.event("vmm", "starting", "")
	m.control = &s.mu
	if o.logFile != "" {
		line := fmt.Sprintf("%s pid %d\n", VersionLine(set.build), os.Getpid())
		if err := os.WriteFile(o.logFile, []byte(line), 0o666); err != nil {
			return fatal(stderr, "Error creating log file", err)
		}
	}
	s.mu.Lock() // requests wait until the guest of the command line is up
	if socket != "" {
		l, err := listen(socket)
		if err != nil {
			return fatal(stderr, "Failed to start the VMM thread", err)
		}
		go s.serve(l)
	}
	if err := m.begin(o); err != nil {
		return fatal(stderr, "", err)
	}
	s.mu.Unlock()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	<-signals
	s.mu.Lock() // as the real control loop: a hanging call outlives SIGTERM
	_ = m.delete()
	clean(0)
	return 0
}

// begin boots or restores what the command line asks for.
func (m *machine) begin(o *options) error {
	switch {
	case o.restore != nil:
		if err := m.restore(o.restore); err != nil {
			return within(err, "Error restoring VM", "The VM could not be restored")
		}
	case o.config != nil:
		if err := m.create(o.config); err != nil {
			return within(err, "Error booting VM", "The VM could not be created")
		}
		if err := m.boot(); err != nil {
			return within(err, "Error booting VM", "The VM could not boot")
		}
	}
	return nil
}

// fatal prints a chain the way the real VMM does when it gives up.
func fatal(stderr io.Writer, outer string, err error) int {
	chain := []string{err.Error()}
	var f *fault
	if errors.As(err, &f) {
		chain = f.chain
	}
	if outer != "" {
		chain = append([]string{outer}, chain...)
	}
	fmt.Fprintln(stderr, "Error: Cloud Hypervisor exited with the following chain of errors:")
	for i, text := range chain {
		fmt.Fprintf(stderr, "  %d: %s\n", i, text)
	}
	return 1
}
