package sim

import (
	"errors"
	"os"
	"slices"
)

// addDisk hot-plugs a disk, which the guest does not use.
func addDisk(m *machine, body []byte) (any, error) {
	if m.vm == nil {
		return nil, errNotCreated()
	}
	d := newDisk()
	if err := decode(body, &d); err != nil {
		return nil, err
	}
	opened, err := openDisk(&d)
	if err != nil {
		return nil, err
	}
	m.vm.disks = append(m.vm.disks, opened)
	m.config.Disks = append(m.config.Disks, d)
	m.vm.deviceCount = m.config.nameDevices()
	return struct {
		ID  string `json:"id"`
		BDF string `json:"bdf"`
	}{m.config.Disks[len(m.config.Disks)-1].ID, "0000:00:09.0"}, nil
}

// removeDevice takes a disk out of the configuration; the guest that uses it goes
// on to, as one does that does not give it back.
func removeDevice(m *machine, body []byte) (any, error) {
	r := struct {
		ID string `json:"id"`
	}{}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if m.vm == nil {
		return nil, errNotCreated()
	}
	before := len(m.config.Disks)
	m.config.Disks = slices.DeleteFunc(m.config.Disks, func(d diskConfig) bool { return d.ID == r.ID })
	if len(m.config.Disks) == before {
		return nil, faultf("Error from device manager", "Unknown device id: "+r.ID)
	}
	return nil, nil
}

// resizeDisk grows the file of a raw disk.
func resizeDisk(m *machine, body []byte) (any, error) {
	r := struct {
		ID   string `json:"id"`
		Size int64  `json:"desired_size"`
	}{}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if m.config == nil {
		return nil, errNotCreated()
	}
	for _, d := range m.config.Disks {
		if d.ID == r.ID {
			if err := os.Truncate(d.Path, r.Size); err != nil {
				return nil, faultf("Error from device manager").because(err)
			}
			return nil, nil
		}
	}
	return nil, errors.New("Error from device manager: Unknown device id: " + r.ID)
}
