package chsnap

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// requestLimit is the longest request that the VMM reads (micro_http,
// MAX_PAYLOAD_SIZE). deviceRoom is reserved for what each device gets at a boot:
// paths.
const (
	requestLimit = 51200
	deviceRoom   = 256
)

// Machine is the machine itself: the configuration without anything that belongs
// to one VM process. It contains no path, TAP or socket of the VM that was saved.
// failure.Incompatible if no VM can be rebuilt from it, or not by one request.
func (c *Config) Machine() (*Config, error) {
	m := c.Clone()
	if _, err := m.normalise(); err != nil {
		return nil, err
	}
	if err := m.Rewrite(m.nowhere()); err != nil {
		return nil, err
	}
	b := m.raw
	for list, key := range map[string]string{"disks": "path", "vsock": "socket", "serial": "file", "payload": "kernel"} {
		var err error
		if b, err = edit(b, list, func(v []byte) ([]byte, error) { return without(v, key) }); err != nil {
			return nil, fmt.Errorf("%s: %w", list, err)
		}
	}
	var short bytes.Buffer
	if err := json.Compact(&short, b); err != nil {
		return nil, failure.New(failure.Damaged, "JSON: %w", err)
	}
	if n := short.Len() + deviceRoom*(len(m.view.Disks)+len(m.view.Nets)+2); n > requestLimit {
		return nil, failure.New(failure.Incompatible, "its configuration of %d bytes is more than the VMM accepts in a request", n)
	}
	m.raw = short.Bytes()
	return m, m.read()
}

// nowhere is a rewrite for a VM that has no files.
func (c *Config) nowhere() Rewrite {
	w := Rewrite{Disks: map[string]DiskFile{}, Taps: map[string]string{}, Vsock: "-"}
	for _, d := range c.view.Disks {
		w.Disks[d.ID] = DiskFile{Readonly: d.Readonly}
	}
	for _, n := range c.view.Nets {
		w.Taps[n.ID] = ""
	}
	return w
}

// without drops a key of an object, or of each object of a list.
func without(b []byte, key string) ([]byte, error) {
	if b[0] != '[' {
		return drop(b, key)
	}
	return editEach(b, func(_ int, o []byte) ([]byte, error) { return drop(o, key) })
}

// Boot is what a machine boots with: its files, and everything that differs from
// boot to boot.
type Boot struct {
	Rewrite
	Cmdline string          // of the kernel
	Links   map[string]Link // by device id
}

// Link is what an interface is attached to.
type Link struct {
	MAC string // the guest's; "" keeps that of the machine
	MTU int    // bytes that the network accepts; 0: unknown
}

// Boot turns a Machine into the configuration of one VM process, for
// [Client.Create].
func (c *Config) Boot(boot Boot) error {
	if err := c.Rewrite(boot.Rewrite); err != nil {
		return err
	}
	b, err := edit(c.raw, "payload", func(p []byte) ([]byte, error) {
		if boot.Cmdline == "" {
			return drop(p, "cmdline")
		}
		return set(p, "cmdline", boot.Cmdline)
	})
	if err == nil {
		b, err = edit(b, "net", func(list []byte) ([]byte, error) {
			return editEach(list, func(_ int, n []byte) ([]byte, error) { return boot.link(n) })
		})
	}
	if err != nil {
		return fmt.Errorf("boot config: %w", err)
	}
	c.raw = b
	return c.read()
}

// link: the machine keeps its MTU unless the network now accepts less.
func (boot Boot) link(n []byte) ([]byte, error) {
	var v NetConfig
	if err := json.Unmarshal(n, &v); err != nil {
		return nil, err
	}
	l := boot.Links[v.ID]
	var err error
	if l.MAC != "" && l.MAC != v.MAC {
		if n, err = set(n, "mac", l.MAC); err != nil {
			return nil, err
		}
	}
	if l.MTU > 0 && l.MTU < v.MTU {
		return set(n, "mtu", l.MTU)
	}
	return n, nil
}
