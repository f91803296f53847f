package networktest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Ping sends echo requests from the netns that in runs its function in, until
// one is answered or patience ends.
func Ping(in func(func() error) error, dst string, patience time.Duration) error {
	network, any4, request, reply := "ip4:icmp", "0.0.0.0", byte(8), byte(0)
	if netip.MustParseAddr(dst).Is6() {
		network, any4, request, reply = "ip6:ipv6-icmp", "::", 128, 129
	}
	var c net.PacketConn
	err := in(func() (err error) {
		c, err = net.ListenPacket(network, any4)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	end := time.Now().Add(patience)
	id := byte(time.Now().UnixNano())
	msg := []byte{request, 0, 0, 0, 'c', id, 0, 1}
	sum := ^(uint16(request)<<8 + 'c'<<8 + uint16(id) + 1)
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	buf := make([]byte, 256)
	for time.Now().Before(end) {
		if _, err := c.WriteTo(msg, &net.IPAddr{IP: net.ParseIP(dst)}); err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
			return fmt.Errorf("ping %s: %w", dst, err)
		}
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				break
			}
			if n >= 8 && buf[0] == reply && buf[4] == 'c' && buf[5] == id && from.String() == dst {
				return nil
			}
		}
	}
	return fmt.Errorf("ping %s: no answer in %v", dst, patience)
}

// GuestPatience bounds an exchange with the test guest, which answers once a
// tick; on a busy machine ticks are slow.
const GuestPatience = 30 * time.Second

// Here is Ping's netns of the calling thread.
func Here(do func() error) error { return do() }
