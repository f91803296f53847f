package chsnap

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Rewrite holds the parts of a configuration that belong to one VM process.
type Rewrite struct {
	Disks                       map[string]DiskFile // by device id; every disk must be named
	Kernel, Firmware, Initramfs string              // "" for none; without kernel and firmware it can only be restored
	SerialFile                  string
	Taps                        map[string]string // device id → TAP, "" for one that the VMM makes; every interface must be named
	Vsock                       string            // path of its socket, of a VM that has one
	Confine                     bool              // by Landlock, to the files in the configuration and these
	Writable, Readable          []string          // folders and files
}

// DiskFile is the file of a disk. Whether the VMM may write to it depends on the
// new VM, since others may share the file.
type DiskFile struct {
	Path     string
	Readonly bool
}

// foreignNet are fields of an interface that belonged to its old TAP: the TAP's
// MAC (which v53.0 persists), its address, and descriptors of the source process.
var foreignNet = []string{"host_mac", "ip", "mask", "fds"}

// Rewrite points every path at the new VM's own files. A path that it does not
// cover is failure.Incompatible and named: a snapshot may come from anybody.
func (c *Config) Rewrite(w Rewrite) error {
	b := c.raw
	if err := exactKeys(b); err != nil {
		return err
	}
	if err := refuse("rewrite config", c.Unsupported()); err != nil {
		return err
	}
	for _, step := range []func([]byte) ([]byte, error){w.disks, w.nets, w.payload, w.consoles, w.vsock, zones, w.landlock, ofTheSource} {
		var err error
		if b, err = step(b); err != nil {
			return fmt.Errorf("rewrite config: %w", err)
		}
	}
	c.raw = b
	return c.read()
}

func (w Rewrite) disks(b []byte) ([]byte, error) {
	return edit(b, "disks", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, d []byte) ([]byte, error) {
			var v DiskConfig
			if err := json.Unmarshal(d, &v); err != nil {
				return nil, err
			}
			file, ok := w.Disks[v.ID]
			if !ok {
				return nil, failure.New(failure.Incompatible, "no file for disk %q", v.ID)
			}
			if v.ImageType == "" || v.ImageType == "Unknown" {
				var err error
				if d, err = set(d, "image_type", "Raw"); err != nil { // else its contents would determine its type
					return nil, err
				}
			}
			if v.Readonly != file.Readonly {
				var err error
				if d, err = set(d, "readonly", file.Readonly); err != nil {
					return nil, err
				}
			}
			return set(d, "path", file.Path)
		})
	})
}

func (w Rewrite) nets(b []byte) ([]byte, error) {
	return edit(b, "net", func(list []byte) ([]byte, error) {
		return editEach(list, func(_ int, n []byte) ([]byte, error) {
			var v NetConfig
			if err := json.Unmarshal(n, &v); err != nil {
				return nil, err
			}
			tap, ok := w.Taps[v.ID]
			if !ok {
				return nil, failure.New(failure.Incompatible, "no TAP for network %q", v.ID)
			}
			for _, key := range foreignNet {
				var err error
				if n, err = drop(n, key); err != nil {
					return nil, err
				}
			}
			if tap == "" {
				return drop(n, "tap")
			}
			return set(n, "tap", tap)
		})
	})
}

// noKernel is the boot file of a VM without kernel or firmware. The VMM restores
// no configuration that names neither, opens neither to do so, and can boot
// nothing from this one (v53; Landlock wants a file that exists).
const noKernel = "/dev/null"

func (w Rewrite) payload(b []byte) ([]byte, error) {
	kernel := w.Kernel
	if kernel == "" && w.Firmware == "" {
		kernel = noKernel
	}
	p, err := get(b, "payload")
	if err == nil && (p == nil || isEmptyJSON(p)) {
		b, err = set(b, "payload", struct{}{})
	}
	if err != nil {
		return nil, err
	}
	return edit(b, "payload", func(p []byte) ([]byte, error) {
		var err error
		for key, path := range map[string]string{"kernel": kernel, "firmware": w.Firmware, "initramfs": w.Initramfs} {
			if path == "" {
				p, err = drop(p, key)
			} else {
				p, err = set(p, key, path)
			}
			if err != nil {
				return nil, err
			}
		}
		return p, nil
	})
}

func (w Rewrite) consoles(b []byte) ([]byte, error) {
	b, err := edit(b, "serial", func(s []byte) ([]byte, error) {
		s, err := drop(s, "socket")
		if err != nil {
			return nil, err
		}
		if s, err = set(s, "mode", "File"); err != nil {
			return nil, err
		}
		return set(s, "file", w.SerialFile)
	})
	if err != nil {
		return nil, err
	}
	if console, err := get(b, "console"); err != nil {
		return nil, err
	} else if console == nil { // the VMM's default is its terminal, where its log goes
		if b, err = set(b, "console", struct{}{}); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"console", "debug_console"} {
		b, err = edit(b, key, func(s []byte) ([]byte, error) {
			if s, err = drop(s, "file"); err != nil {
				return nil, err
			}
			if s, err = drop(s, "socket"); err != nil {
				return nil, err
			}
			return muteConsole(s)
		})
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// muteConsole: a console on a file, pty or terminal of the source has no place
// here. Null keeps the virtio device, Off stays Off.
func muteConsole(s []byte) ([]byte, error) {
	mode, err := get(s, "mode")
	if err != nil || bytes.Equal(mode, []byte(`"Off"`)) {
		return s, err
	}
	return set(s, "mode", "Null")
}

func (w Rewrite) vsock(b []byte) ([]byte, error) {
	return edit(b, "vsock", func(v []byte) ([]byte, error) {
		if w.Vsock == "" {
			return nil, failure.New(failure.Incompatible, "vsock needs its own socket")
		}
		return set(v, "socket", w.Vsock)
	})
}

// entropy are the devices allowed as a VM's source of random numbers.
var entropy = []string{"/dev/urandom", "/dev/random", "/dev/hwrng"}

// zones drops files that RAM was mapped from privately: all that the guest sees
// of them is in the snapshot. Normalise does so at capture.
func zones(b []byte) ([]byte, error) { return edit(b, "memory", privateFiles) }

// landlock confines the VMM or does not, regardless of the source.
func (w Rewrite) landlock(b []byte) ([]byte, error) {
	b, err := unconfined(b)
	if err != nil || !w.Confine {
		return b, err
	}
	if b, err = set(b, "landlock_enable", true); err != nil {
		return nil, err
	}
	rules := make([]landlockRule, 0, len(w.Writable)+len(w.Readable))
	for _, path := range w.Writable {
		rules = append(rules, landlockRule{path, "rw"})
	}
	for _, path := range w.Readable {
		rules = append(rules, landlockRule{path, "r"})
	}
	return set(b, "landlock_rules", rules)
}

// unconfined removes the paths that a VMM was allowed on its host.
func unconfined(b []byte) ([]byte, error) {
	b, err := drop(b, "landlock_rules")
	if err != nil {
		return nil, err
	}
	return edit(b, "landlock_enable", func([]byte) ([]byte, error) { return []byte("false"), nil })
}

// ofTheSource removes what else only the source's VMM had: a debugger's socket.
func ofTheSource(b []byte) ([]byte, error) {
	return edit(b, "gdb", func([]byte) ([]byte, error) { return []byte("false"), nil })
}
