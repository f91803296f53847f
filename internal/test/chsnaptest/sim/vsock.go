package sim

import "net"

// openVsock makes the socket of a vsock device. Where a file is already it
// fails, and nobody removes the socket: a VM can have it once.
func openVsock(c *vsockConfig) (net.Listener, error) {
	if c == nil {
		return nil, nil
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return nil, faultf("Error from device manager", "Cannot create virtio-vsock backend", "Error binding to the host-side Unix socket").because(err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}
