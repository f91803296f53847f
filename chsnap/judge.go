package chsnap

import (
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Judge tells whether a VM can be rebuilt of a configuration and a state, by
// doing on copies of them all that a restore does: what is only found out when
// the guest is gone is found out too late. state is nil before a capture, when
// only the configuration is known; what the VMM would write is then judged by
// it alone. failure.Incompatible names what is in the way.
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

// HasVsock: the VM has a vsock device, and so a socket that only one VM can have.
func (c *Config) HasVsock() bool { return c.view.Vsock != nil }

// Confined: the VMM of this VM confines itself by Landlock.
func (c *Config) Confined() bool { return c.view.Landlock }

// MayWrite tells whether the VMM may make files below dir. One that confines
// itself by Landlock may only where a rule of its own says so.
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
