package capture

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// judge refuses a VM that could not be rebuilt: one with disks or interfaces that
// cocoon did not give it, whose data no snapshot would have, or with anything
// that a restore would refuse.
func (c *session) judge() error {
	if problems := c.strangers(); len(problems) > 0 {
		var all []string
		for _, p := range problems {
			all = append(all, p.Device+": "+p.Reason)
		}
		return failure.Hint(failure.New(failure.Incompatible, "%s", strings.Join(all, "; ")), problems[0].Remedy)
	}
	if err := c.foresee(); err != nil {
		return changed(err)
	}
	if err := c.checkDisks(); err != nil {
		return err
	}
	return c.rec.Judge(c.config, nil)
}

// checkDisks refuses a disk that no VMM would open again. The running guest may
// still change it, so it is checked again during the pause.
func (c *session) checkDisks() error {
	for _, d := range c.rec.Disks {
		if d.File == "" {
			continue
		}
		if err := chsnap.CheckRaw(c.diskPath(d)); err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	return nil
}

// foresee checks what is known of the snapshot against the requirements of every
// restore.
func (c *session) foresee() error {
	rec := saved(c.rec, c.config)
	record, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	sp := store.Spec{CPUs: rec.CPUs, Record: record, Images: imageRefs(rec), Disks: savedDisks(rec), Networks: known(rec)}
	_, err = vm.Agree(vm.Documents{Spec: &sp, Config: c.config, Own: true})
	return err
}

// strangers compares the VMM's devices with the record.
func (c *session) strangers() []chsnap.Problem {
	disks, nets := map[string]chsnap.DiskConfig{}, map[string]chsnap.NetConfig{}
	for _, d := range c.config.Disks() {
		disks[d.ID] = d
	}
	for _, n := range c.config.Nets() {
		nets[n.ID] = n
	}
	var out []chsnap.Problem
	for _, d := range c.rec.Disks {
		have, there := disks[d.DeviceID]
		delete(disks, d.DeviceID)
		if !there {
			out = append(out, c.removed("disk "+d.DeviceID))
		} else if !sameFile(have.Path, c.diskPath(d)) || have.Readonly != d.Readonly {
			out = append(out, c.stranger("disk "+d.DeviceID+" ("+have.Path+")", d.DeviceID))
		}
	}
	for _, n := range c.rec.Networks {
		have, there := nets[n.ID]
		delete(nets, n.ID)
		if !there {
			out = append(out, c.removed("network "+n.ID))
		} else if !sameInterface(have, n) {
			out = append(out, c.stranger("network "+n.ID, n.ID))
		}
	}
	for _, d := range c.config.Disks() {
		if _, strange := disks[d.ID]; strange {
			out = append(out, c.stranger("disk "+d.ID+" ("+d.Path+")", d.ID))
		}
	}
	for _, n := range c.config.Nets() {
		if _, strange := nets[n.ID]; strange {
			out = append(out, c.stranger("network "+n.ID, n.ID))
		}
	}
	return out
}

func (c *session) diskPath(d vm.Disk) string {
	if d.Image != "" {
		return c.Store.ImageBlobPath(d.Image)
	}
	return filepath.Join(c.VMs.Dir(c.rec.ID), d.File)
}

// sameFile: a root folder has several names if it was moved behind a link.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	fa, erra := os.Stat(a)
	fb, errb := os.Stat(b)
	return erra == nil && errb == nil && os.SameFile(fa, fb)
}

func sameInterface(have chsnap.NetConfig, n vm.Network) bool {
	mac := n.Inside().MAC
	return (have.Tap == n.Tap || have.Tap == "" || n.Tap == "") && (have.MAC == "" || mac == "" || strings.EqualFold(have.MAC, mac))
}

func (c *session) stranger(device, id string) chsnap.Problem {
	socket := ""
	if c.rec.Process != nil {
		socket = c.rec.Process.APISocket
	}
	return chsnap.Problem{
		Device: device, Reason: "cocoon did not give it to the VM, and no snapshot would bring it back",
		Remedy: "remove it: ch-remote --api-socket " + socket + " remove-device " + id + "; disks and interfaces that are saved are those of " + hint.Create.Of("NAME") + " " + hint.Disks.Of() + " and " + hint.Networks.Of(),
	}
}

func (c *session) removed(device string) chsnap.Problem {
	return chsnap.Problem{
		Device: device, Reason: "it was removed from the running VM, and a snapshot of the rest would not match the VM's record",
		Remedy: hint.Stop.Of(c.rec.Name) + ", then " + hint.Wake.Of(c.rec.Name) + ", give it back",
	}
}
