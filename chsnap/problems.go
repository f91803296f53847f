package chsnap

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Problem is one reason why a VM cannot be saved or rebuilt.
type Problem struct{ Device, Reason, Remedy string }

// Unsupported lists everything that a snapshot would not bring back, or that a
// rebuild would have to open but must not.
func (c *Config) Unsupported() []Problem {
	out, err := configKeys.problems(c.raw, "")
	if err != nil { // read has checked all of it
		return []Problem{{"configuration", err.Error(), "save the VM again"}}
	}
	for _, d := range c.view.Disks {
		out = append(out, d.problems()...)
	}
	for _, n := range c.view.Nets {
		if n.VhostUser || n.VhostSocket != "" {
			out = append(out, Problem{"network " + n.ID, "vhost-user: its state is in another process", "use a TAP"})
		}
	}
	m := c.view.Memory
	if m.Hotplugged > 0 && m.Method != "VirtioMem" {
		out = append(out, Problem{"hot-plugged memory", "ACPI hot-plugged memory does not come back", "boot with the full size or use virtio-mem"})
	}
	for _, z := range m.Zones {
		if z.Shared && z.File != "" {
			out = append(out, Problem{"memory zone " + z.ID, "a shared file is not part of the snapshot", "boot without the file"})
		}
	}
	if src := c.view.RNG.Src; src != "" && !slices.Contains(entropy, src) {
		out = append(out, Problem{fmt.Sprintf("rng that reads %.80q", src), "only the kernel's random devices are opened for a rebuilt VM", "boot with --rng src=/dev/urandom"})
	}
	return out
}

// rawTypes are the names of raw disks in configurations. No other type is
// rebuilt, even read-only: its contents came from elsewhere too.
var rawTypes = []string{"", "Unknown", "Raw"}

// Check is failure.Incompatible if anything is Unsupported.
func (c *Config) Check() error {
	return refuse("the VM has something that cannot be restored", c.Unsupported())
}

// problems of a disk. Disks are raw, and none may name further files: a guest
// writes its own disk, and could write the header of a qcow2 whose backing file
// is any file of the host.
func (d DiskConfig) problems() []Problem {
	switch {
	case d.VhostUser || d.VhostSocket != "":
		return []Problem{{"disk " + d.ID, "vhost-user: its state is in another process", "use a file"}}
	case d.BackingFiles:
		return []Problem{{"disk " + d.ID, "its backing files are files of this host", "use a raw disk"}}
	case !slices.Contains(rawTypes, d.ImageType):
		return []Problem{{"disk " + d.ID, fmt.Sprintf("%.40q: what stands in it may name files of this host, and what the VMM holds of it is not in the file while it is paused", d.ImageType), "use a raw disk"}}
	}
	return nil
}

// refuse returns the error for a list of problems, nil if it is empty.
func refuse(what string, problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	var all []string
	for _, p := range problems {
		all = append(all, p.Device+": "+p.Reason)
	}
	return failure.Hint(failure.New(failure.Incompatible, "%s: %s", what, strings.Join(all, "; ")), problems[0].Remedy)
}
