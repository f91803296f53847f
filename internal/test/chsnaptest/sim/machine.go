package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Run states as vm.info prints them.
const (
	stateCreated = "Created"
	stateRunning = "Running"
	statePaused  = "Paused"
)

// settings is what the environment decides.
type settings struct {
	fill        uint64
	tick        time.Duration
	powerButton string // "ignore", or "late": the first press is not heard
	noise       string // a line that the guest prints for ever
	nmi         string // what the guest does on one: panic, pvpanic or nothing
	version     string // what vmm.ping reports
	build       string // and --version
	fail        *failpoints
}

// machine is what the API acts on. Its methods are called one at a time.
type machine struct {
	settings settings
	stdout   io.Writer
	events   io.Writer      // nil: nobody listens
	exit     func(code int) // ends the process, the socket file stays
	config   *vmConfig      // nil: empty
	vm       *vm            // nil: configured, not booted
	control  sync.Locker    // the control loop, for workers beside it
	sending  *sender        // a migration under way, else nil
	noSpace  bool           // the next dump meets a full disk half-way
}

// vm is a booted or restored guest with what it holds open.
type vm struct {
	ram         *ram
	guest       *guest
	disks       []*disk
	taps        []*tap
	vsock       net.Listener // nil without the device
	serial      *os.File     // nil when the serial port is no file
	state       string
	deviceCount int
}

func (m *machine) create(c *vmConfig) error {
	if m.config != nil {
		return errExists()
	}
	if f, err := openSerial(c); err != nil {
		return err
	} else if f != nil {
		f.Close()
	}
	m.config = c
	return nil
}

// openSerial creates or truncates the serial port's file.
func openSerial(c *vmConfig) (*os.File, error) {
	if c.Serial.Mode != "File" {
		return nil, nil
	}
	f, err := os.OpenFile(c.Serial.File, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, faultf("Error creating console devices", "Error creating console device").because(err)
	}
	return f, nil
}

// boot starts the configured VM from power-on.
func (m *machine) boot() error {
	switch {
	case m.vm != nil:
		return errExists()
	case m.config == nil:
		return errNoConfig()
	}
	return m.bootWith(m.config)
}

func (m *machine) bootWith(c *vmConfig) error {
	if err := c.validate(); err != nil {
		return err
	}
	for _, path := range []string{c.Payload.Kernel, c.Payload.Firmware} {
		if err := mustOpen(path, "Cannot open kernel file"); err != nil {
			return err
		}
	}
	firstSlot := 0
	if len(c.Memory.Zones) > 0 {
		firstSlot = 1
	}
	return m.assemble(c, layout(c.memoryBytes(), firstSlot), assembly{boot: true})
}

// mustOpen fails with the given message when a named file cannot be opened.
func mustOpen(path, message string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return faultf(message).because(err)
	}
	return f.Close()
}

// assembly says how a VM comes to its RAM and guest.
type assembly struct {
	boot    bool
	load    func(*ram) error // fills RAM from a snapshot; nil at boot
	ram     *ram             // filled already; nil to map the spans
	missing []string         // devices without saved state
}

// assemble builds a VM in the order of the real one: console, memory, disks,
// TAPs, initramfs, locks; then the guest starts, paused unless it boots.
func (m *machine) assemble(c *vmConfig, spans []*span, a assembly) (err error) {
	v := &vm{state: statePaused}
	defer func() {
		if err != nil && m.vm != v {
			v.release()
		}
	}()
	if v.serial, err = openSerial(c); err != nil {
		return err
	}
	if v.ram = a.ram; v.ram == nil {
		if v.ram, err = newRAM(spans, &c.Memory); err != nil {
			return err
		}
	}
	if a.load != nil {
		if err = a.load(v.ram); err != nil {
			return err
		}
	}
	v.deviceCount = c.nameDevices()
	if v.disks, err = openDisks(c); err != nil {
		return err
	}
	if v.taps, err = openTaps(c); err != nil {
		return err
	}
	if v.vsock, err = openVsock(c.Vsock); err != nil {
		return err
	}
	if err = mustOpen(c.Payload.Initramfs, "Cannot open initramfs file"); err != nil {
		return err
	}
	if err = lockDisks(v.disks); err != nil {
		if a.boot { // v53 keeps the VM it could not start until vm.delete
			v.state = stateCreated
			m.config, m.vm = c, v
		}
		return err
	}
	if a.boot {
		v.state = stateRunning
	}
	o := guestOptions{
		ram: v.ram, disk: counterDisk(v.disks), serial: m.serialWriter(c, v), tick: m.settings.tick,
		fill: m.settings.fill, boot: a.boot, missing: a.missing, cmdline: c.Payload.Cmdline, onPower: m.powerOff(), noise: m.settings.noise,
	}
	if len(v.taps) > 0 {
		o.tap, o.mac = v.taps[0], c.Net[0].MAC
	}
	v.guest = startGuest(o)
	m.config, m.vm = c, v
	if a.boot {
		m.event("vm", "booted", "")
	}
	return nil
}

func (m *machine) serialWriter(c *vmConfig, v *vm) io.Writer {
	switch {
	case v.serial != nil:
		return v.serial
	case c.Serial.Mode == "Tty":
		return m.stdout
	}
	return io.Discard
}

// powerOff is what the guest does when it sees the power button, nil to ignore.
func (m *machine) powerOff() func() {
	if m.settings.powerButton == "ignore" {
		return nil
	}
	return func() {
		m.event("vmm", "shutdown", "")
		m.exit(0)
	}
}

// release stops the guest and gives back memory, disks and serial port.
func (v *vm) release() {
	if v.guest != nil {
		v.guest.end()
	}
	closeDisks(v.disks)
	closeTaps(v.taps)
	if v.vsock != nil {
		v.vsock.Close()
	}
	if v.ram != nil {
		v.ram.close()
	}
	if v.serial != nil {
		v.serial.Close()
	}
}

func (m *machine) pause() error {
	if m.vm == nil {
		return errNotRunning()
	}
	if m.vm.state != stateRunning {
		return faultf("Cannot pause VM", "Failed to pause migratable component", errTransition(m.vm.state, statePaused))
	}
	m.vm.guest.pause()
	m.vm.state = statePaused
	return nil
}

func (m *machine) resume() error {
	if m.vm == nil {
		return errNotRunning()
	}
	if m.vm.state != statePaused {
		return faultf("Cannot resume VM", "Failed to resume migratable component", errTransition(m.vm.state, stateRunning))
	}
	m.vm.state = stateRunning
	m.vm.guest.resume()
	return nil
}

// shutdown ends the VM and keeps its configuration.
func (m *machine) shutdown() error {
	if m.vm == nil {
		return errNotRunning()
	}
	m.vm.release()
	m.vm = nil
	return nil
}

// delete ends the VM if there is one and forgets the configuration.
func (m *machine) delete() error {
	if m.vm != nil {
		m.vm.release()
	}
	m.vm, m.config = nil, nil
	return nil
}

// reboot starts the guest again from power-on, also a paused one.
func (m *machine) reboot() error {
	if m.vm == nil {
		return errNotCreated()
	}
	m.vm.release()
	m.vm = nil
	if err := m.bootWith(m.config); err != nil {
		return err
	}
	m.event("vm", "rebooted", "")
	return nil
}

func (m *machine) pressPower() error {
	if m.vm == nil {
		return errNotRunning()
	}
	if m.settings.powerButton == "late" {
		m.settings.powerButton = ""
		return nil
	}
	if m.vm.guest != nil {
		m.vm.guest.pressPower()
	}
	return nil
}

// vmInfo is the answer of vm.info.
type vmInfo struct {
	Config *vmConfig           `json:"config"`
	State  string              `json:"state"`
	Memory uint64              `json:"memory_actual_size"`
	Tree   map[string]treeNode `json:"device_tree,omitempty"`
}

func (m *machine) info() (*vmInfo, error) {
	if m.config == nil {
		return nil, errNotCreated()
	}
	i := &vmInfo{Config: m.config, State: stateCreated, Memory: m.config.memoryBytes()}
	if m.vm != nil {
		i.State = m.vm.state
		i.Tree = deviceTree(m.config)
	}
	return i, nil
}
