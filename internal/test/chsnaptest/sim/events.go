package sim

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// openEvents opens what --event-monitor names: fd=N or path=F.
func openEvents(value string) (io.Writer, error) {
	kind, what, _ := strings.Cut(value, "=")
	switch kind {
	case "fd":
		fd, err := strconv.Atoi(what)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "events"), nil
	case "path":
		return os.Create(what)
	}
	return nil, fmt.Errorf("unknown monitor %q", value)
}

// event tells one; as in the real one nobody has to hear it.
func (m *machine) event(source, name, properties string) {
	if m.events == nil {
		return
	}
	if properties == "" {
		properties = "null"
	}
	_, _ = fmt.Fprintf(m.events, "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 1\n  },\n  \"source\": %q,\n  \"event\": %q,\n  \"properties\": %s\n}\n\n", source, name, properties)
}

// nmi is a panic of the guest where CHSIM_NMI says so.
func (m *machine) nmi() error {
	if m.vm == nil {
		return errNotRunning()
	}
	switch m.settings.nmi {
	case "panic":
		m.vm.guest.panics("Kernel panic - not syncing: NMI: Not continuing\n")
	case "pvpanic":
		m.vm.guest.panics("")
		m.event("guest", "panic", `{"event": "panic"}`)
	}
	return nil
}

// panics prints its last words.
func (g *guest) panics(words string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.halted = true
	g.print("%s", words)
}
