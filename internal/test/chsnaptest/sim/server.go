package sim

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	apiRoot        = "/api/v1/"
	maxConnections = 10
	maxBodyBytes   = 51200
)

// server speaks the real VMM's HTTP: fixed length bodies, keep-alive, a status
// line without a reason, at most ten connections, one request at a time.
type server struct {
	mu      sync.Mutex // the control loop: held while a request runs
	machine *machine
	open    atomic.Int32
	exit    func(code int)
}

// listen locks <socket>.lock for the life of the process and binds the socket,
// in place of a stale one.
func listen(socket string) (net.Listener, error) {
	if fd, ok := strings.CutPrefix(socket, "fd="); ok {
		n, err := strconv.Atoi(fd)
		if err != nil {
			return nil, fmt.Errorf("API socket %q: %w", socket, err)
		}
		return net.FileListener(os.NewFile(uintptr(n), socket))
	}
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of API socket %s: %w", socket, err)
	}
	whole := syscall.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		lock.Close()
		return nil, fmt.Errorf("API socket %q is already in use by another running instance", socket)
	}
	// lock stays open on purpose: detached from its finaliser it lives as long as
	// the process.
	if _, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return nil, fmt.Errorf("keeping the lock of API socket %s: %w", socket, err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("removing stale API socket %s: %w", socket, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("binding API socket %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// serve accepts connections until the listener is closed.
func (s *server) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if s.open.Add(1) > maxConnections {
			s.refuse(conn)
			s.open.Add(-1)
			continue
		}
		go func() {
			defer s.open.Add(-1)
			defer conn.Close()
			s.connection(conn)
		}()
	}
}

func (s *server) refuse(conn net.Conn) {
	const body = `{ "error": "Too many open connections" }`
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	conn.Close()
}

// connection answers requests until the client closes. A client that goes away
// while its call runs does not stop the call.
func (s *server) connection(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if request.ContentLength > maxBodyBytes || request.ContentLength < 0 {
			_ = write(conn, errorReply(&badRequest))
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		r := s.answer(request.Method, request.URL.Path, body)
		sent := write(conn, r)
		if r.stop {
			s.exit(0)
		}
		if sent != nil {
			return
		}
	}
}

func (s *server) answer(method, path string, body []byte) reply {
	name, ok := strings.CutPrefix(path, apiRoot)
	if !ok {
		return errorReply(&notFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.call(method, name, body)
}

func write(conn net.Conn, r reply) error {
	head := fmt.Sprintf("HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n", r.status)
	if r.status != http.StatusNoContent {
		head += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	_, err := conn.Write(append([]byte(head+"\r\n"), r.body...))
	return err
}
