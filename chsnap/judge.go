package chsnap

import (
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Judge checks whether a VM can be rebuilt from a configuration and a state, by
// doing everything a restore does on copies of them: a problem found only after
// the guest is gone is found too late. state is nil before a capture, when only
// the configuration is known; then that alone is checked. failure.Incompatible
// names the obstacle.
func Judge(config *Config, state *State, w Rewrite) error {
	c, s := config.Clone(), state.Clone()
	var err error
	if s == nil {
		_, err = c.normalise()
	} else {
		err = Normalise(c, s)
	}
	if err != nil {
		return err
	}
	if err := c.Rewrite(w); err != nil {
		return err
	}
	if s == nil {
		return nil
	}
	if s.bytes() != c.MemoryBytes() && !c.hotplugs() { // how much of that is plugged only the guest knows
		return failure.New(failure.Damaged, "the table of memory ranges has %d bytes, the configuration %d", s.bytes(), c.MemoryBytes())
	}
	if c.StreamRefusal() == "" {
		if _, err := MigrationConfig(c, s); err != nil {
			return err
		}
	}
	if c.MapRefusal() == "" {
		return MapMemory(c, s, "/memory")
	}
	return nil
}

// Clone is one to be changed.
func (c *Config) Clone() *Config {
	copied := *c
	return &copied
}

// Clone is one to be changed.
func (s *State) Clone() *State {
	if s == nil {
		return nil
	}
	copied := *s
	return &copied
}

// HasVsock reports whether the VM has a vsock device, and so a socket that only
// one VM can have.
func (c *Config) HasVsock() bool { return c.view.Vsock != nil }

// Confined reports whether the VMM of this VM confines itself by Landlock.
func (c *Config) Confined() bool { return c.view.Landlock }

// MayWrite reports whether the VMM may make files below dir. A VMM confined by
// Landlock may only if it has a rule for that.
func (c *Config) MayWrite(dir string) bool {
	if !c.view.Landlock {
		return true
	}
	for _, r := range c.view.LandlockRules {
		below, err := filepath.Rel(r.Path, dir)
		if err == nil && strings.Contains(r.Access, "w") && below != ".." && !strings.HasPrefix(below, "../") {
			return true
		}
	}
	return false
}
