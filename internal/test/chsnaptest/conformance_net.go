package chsnaptest

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// The addresses of a guest on a TAP and of the host at the other end.
const (
	guestIP  = "10.1.2.3"
	hostIP   = "10.1.2.1"
	guestMAC = "02:11:22:33:44:55"
)

// isolate moves the calling test, and every process that it starts, into a
// network namespace of its own. Sockets opened by this goroutine are in there too.
// The thread goes back where it was at the end of the test and must not end: a
// VMM that another test started on it would be killed with it.
func isolate(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace and a TAP")
	}
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(func() {
		defer before.Close()
		if err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("leaving the network namespace: %v", err) // the thread stays locked, and ends
			return
		}
		runtime.UnlockOSThread()
	})
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
}

// makeTAP makes a persistent TAP as an operator does, with an address, down.
func makeTAP(t *testing.T, name string, flags uint16) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no TAP can be made here: %v", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	err = errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, request), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
	if err != nil {
		t.Fatalf("making TAP %s: %v", name, err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	set := func(call uint, address [4]byte) {
		if err := request.SetInet4Addr(address[:]); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(socket, call, request); err != nil {
			t.Fatalf("addressing TAP %s: %v", name, err)
		}
	}
	set(unix.SIOCSIFADDR, netip.MustParseAddr(hostIP).As4())
	set(unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0})
}

// wire is the host's end of the guest's network.
type wire struct {
	t           *testing.T
	echo, beats net.PacketConn
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t}
	var errs [2]error
	w.echo, errs[0] = net.ListenPacket("ip4:icmp", hostIP)
	w.beats, errs[1] = net.ListenPacket("udp4", net.JoinHostPort(hostIP, "9999"))
	if err := errors.Join(errs[0], errs[1]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.echo.Close()
		w.beats.Close()
	})
	return w
}

// ping sends echo requests with a payload of n bytes until one comes back whole,
// for at most patience.
func (w *wire) ping(n int, patience time.Duration) bool {
	w.t.Helper()
	// The checksum of this header and payload is the complement of their sum.
	request := append([]byte{8, 0, 0, 0, 'c', 'c', 0, 1}, bytes.Repeat([]byte{0, 0}, n/2)...)
	sum := ^uint16(0x0800 + 'c'<<8 + 'c' + 1)
	request[2], request[3] = byte(sum>>8), byte(sum)
	answer := append([]byte{}, request...)
	answer[0], answer[2] = 0, answer[2]+8
	buf := make([]byte, 4096)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := w.echo.WriteTo(request, &net.IPAddr{IP: net.ParseIP(guestIP)}); err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
			w.t.Fatal(err)
		}
		_ = w.echo.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, from, err := w.echo.ReadFrom(buf)
			if err != nil {
				break
			}
			if from.String() == guestIP && bytes.Equal(buf[:n], answer) {
				return true
			}
		}
	}
	return false
}

// beat returns the counter of the next datagram, false after patience.
func (w *wire) beat(patience time.Duration) (uint64, bool) {
	w.t.Helper()
	buf := make([]byte, 256)
	_ = w.beats.SetReadDeadline(time.Now().Add(patience))
	n, from, err := w.beats.ReadFrom(buf)
	if err != nil {
		return 0, false
	}
	ram, address, ok := guest.ParseBeat(buf[:n])
	if !ok || address.String() != guestIP || from.String() != net.JoinHostPort(guestIP, "9999") {
		w.t.Fatalf("datagram %q from %s", buf[:n], from)
	}
	return uint64(ram), true
}

// drain returns the counter of the last datagram that has arrived.
func (w *wire) drain() (last uint64) {
	w.t.Helper()
	for {
		c, ok := w.beat(100 * time.Millisecond)
		if !ok {
			return last
		}
		last = c
	}
}

// answers checks ping, small and large, and that beats follow each other from
// first on. A first beat may be lost before the wire is up, later ones not.
func (w *wire) answers(first uint64) {
	w.t.Helper()
	count, ok := w.beat(caseTimeout)
	if !ok || count < first || count > first+200 {
		w.t.Fatalf("beat %d (%t), want from %d on", count, ok, first)
	}
	for range 20 {
		next, ok := w.beat(caseTimeout)
		if !ok || next != count+1 {
			w.t.Fatalf("beat %d (%t) after %d", next, ok, count)
		}
		count = next
	}
	for _, n := range []int{8, 1400} {
		if !w.ping(n, caseTimeout) {
			w.t.Errorf("no answer to a ping of %d bytes", n)
		}
	}
}

func testNetwork(t *testing.T, s *suite) {
	isolate(t)
	makeTAP(t, "tap0", 0)
	disk := filepath.Join(scratch(t), "disk.raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	v := s.boot(t, "--disk", "path="+disk+",image_type=raw,serial=cow0", "--net", "tap=tap0,mac="+guestMAC,
		"--cmdline", "fill=16 net="+guestIP+"/24,gw="+hostIP+",hb=9999")
	v.disk = disk
	w := newWire(t) // after the boot: the VMM brings the TAP up
	w.answers(1)

	v.must("vm.pause", nil)
	last := w.drain()
	if w.ping(8, 300*time.Millisecond) {
		t.Error("a paused guest answered a ping")
	}
	v.must("vm.resume", nil)
	w.answers(last + 1)

	saved := &savedVM{dir: v.snapshot(), disk: filepath.Join(scratch(t), "disk.copy"), last: v.lastTick()}
	copyFile(t, saved.disk, v.disk)
	v.healthy()
	last = w.drain()
	v.kill()

	x := s.empty(t)
	x.must("vm.restore", restoreBody{SourceURL: "file://" + x.place(saved, ""), Resume: true})
	w.answers(last + 1)
	x.continues(saved.last)
}

func testBadTAPs(t *testing.T, s *suite) {
	isolate(t)
	makeTAP(t, "plain", 0)
	makeTAP(t, "multi", unix.IFF_MULTI_QUEUE)
	busy := s.launch(t, append(bootArgs(s.kernel, "$DIR/serial"), "--net", "tap=plain")...)
	busy.waitTicks(1)
	v := s.empty(t)
	for _, c := range []struct{ tap, want string }{
		{"plain", `"Unable to configure tap interface","Device or resource busy (os error 16)"`},
		{"multi", `"Unable to configure tap interface","Invalid argument (os error 22)"`},
		{"lo", `"Unable to configure tap interface","Invalid argument (os error 22)"`},
		{"abcdefghijklmnop", `"Interface name too long (max length is 15): abcdefghijklmnop"`},
	} {
		v.must("vm.create", map[string]any{
			"payload": map[string]any{"kernel": s.kernel},
			"cpus":    map[string]any{"boot_vcpus": 1, "max_vcpus": 1, "nested": false},
			"memory":  map[string]any{"size": guestBytes},
			"net":     []any{map[string]any{"tap": c.tap}},
			"console": map[string]any{"mode": "Off"},
		})
		status, body, err := v.do(v.ctx, http.MethodPut, "vm.boot", nil)
		want := `"Error from device manager","Cannot create virtio-net device","Failed to open taps","Open tap device failed",` + c.want
		if err != nil || status != 500 || !strings.Contains(body, want) {
			t.Errorf("TAP %s: status %d %s, error %v, want 500 with %s", c.tap, status, body, err, want)
		}
		v.must("vm.delete", nil)
	}
}
