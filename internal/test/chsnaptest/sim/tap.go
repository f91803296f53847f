package sim

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vnetHeader is the virtio-net header in front of every frame, bytes.
const vnetHeader = 12

// tap is the host's end of one network device: a TAP opened as Cloud Hypervisor
// v53 opens it. A persistent one is taken, a missing one is made and goes with
// the VM.
type tap struct {
	name   string
	queues []int // descriptors, one a queue pair, non-blocking
}

// openTaps opens the TAP of every network device that has no other back end.
func openTaps(c *vmConfig) ([]*tap, error) {
	var taps []*tap
	for i := range c.Net {
		n := &c.Net[i]
		if n.VhostUser || len(n.FDs) > 0 {
			continue
		}
		err := c.mayAsk(n.Tap)
		var t *tap
		if err == nil {
			t, err = openTap(n)
		}
		if err != nil {
			closeTaps(taps)
			return nil, within(err, "Error from device manager", "Cannot create virtio-net device", "Failed to open taps")
		}
		taps = append(taps, t)
	}
	return taps, nil
}

// mayAsk: a TAP that is there is asked how many queues it has, which a VMM that
// confined itself may do where a rule allows it only.
func (c *vmConfig) mayAsk(name string) error {
	dir := filepath.Join("/sys/class/net", name)
	if _, err := os.Stat(dir); name == "" || err != nil || c.may("r", dir) {
		return nil
	}
	return faultf("Failed to read the TAP flags from sysfs").because(unix.EACCES)
}

func closeTaps(taps []*tap) {
	for _, t := range taps {
		for _, fd := range t.queues {
			unix.Close(fd)
		}
	}
}

// openTap attaches to the device's TAP and brings it up. As v53 does it notes
// the TAP's own MAC in the configuration, and sets one that is noted there.
func openTap(n *netConfig) (*tap, error) {
	t := &tap{name: n.Tap}
	if t.name == "" {
		t.name = "vmtap%d"
	}
	if len(t.name) >= unix.IFNAMSIZ {
		return nil, faultf("Open tap device failed", fmt.Sprintf("Interface name too long (max length is 15): %s", t.name))
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if n.NumQueues > 2 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range max(n.NumQueues/2, 1) {
		if err := t.addQueue(flags); err != nil {
			closeTaps([]*tap{t})
			return nil, err
		}
	}
	if err := t.configure(n); err != nil {
		closeTaps([]*tap{t})
		return nil, err
	}
	return t, nil
}

func (t *tap) addQueue(flags uint16) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return faultf("Open tap device failed", "Couldn't open /dev/net/tun").because(err)
	}
	t.queues = append(t.queues, fd)
	request, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return faultf("Open tap device failed", "Unable to configure tap interface").because(err)
	}
	t.name = request.Name()
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeader); err != nil {
		return faultf("Setting vnet header size failed").because(err)
	}
	return nil
}

// configure sets what the device asks for and brings the TAP up.
func (t *tap) configure(n *netConfig) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if n.HostMAC != "" {
		if err := setMAC(socket, t.name, n.HostMAC); err != nil {
			return faultf("Setting MAC address failed").because(err)
		}
	}
	link, err := net.InterfaceByName(t.name)
	if err != nil {
		return faultf("Getting MAC addr failed").because(err)
	}
	n.HostMAC = link.HardwareAddr.String()
	request, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	if n.MTU != nil {
		request.SetUint32(uint32(*n.MTU))
		if err := unix.IoctlIfreq(socket, unix.SIOCSIFMTU, request); err != nil {
			return faultf("Setting MTU failed").because(err)
		}
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request); err != nil {
		return faultf("Enabling tap interface failed").because(err)
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return faultf("Enabling tap interface failed").because(err)
	}
	return nil
}

func setMAC(socket int, name, mac string) error {
	address, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	request := struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [22]byte
	}{family: unix.ARPHRD_ETHER}
	copy(request.name[:], name)
	copy(request.mac[:], address)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// receive returns the next frame that waits, nil when there is none. buf holds
// header and frame.
func (t *tap) receive(buf []byte) []byte {
	for _, fd := range t.queues {
		if n, err := unix.Read(fd, buf); err == nil && n > vnetHeader {
			return buf[vnetHeader:n]
		}
	}
	return nil
}

// send hands a frame to the host. One that the host does not take is lost, as
// on any network.
func (t *tap) send(frame []byte) {
	_, _ = unix.Write(t.queues[0], append(make([]byte, vnetHeader), frame...))
}
