package vm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// vsockFile in a VM's run folder is the socket of its vsock device. The guest
// connects to sockets beside it, "vsock.sock_PORT", which programs of the host
// make and own.
const vsockFile = "vsock.sock"

// VsockPath is the socket of a VM's vsock device, if it has one. It is the one in
// the VM's own arguments, where programs look for it. The arguments of a VM
// rebuilt from a snapshot come from the saved VM, whose socket only that VM can
// have, so the rebuilt one has its socket in its run folder.
func (m *Manager) VsockPath(rec *Record) string {
	if _, at := vsockArg(rec.ExtraArgs); at != "" && rec.Snapshot == "" {
		return at
	}
	return filepath.Join(m.RunDir(rec.ID), vsockFile)
}

// VsockSocket is VsockPath if the VMM has made the socket, else "".
func (m *Manager) VsockSocket(rec *Record) string {
	path := m.VsockPath(rec)
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != os.ModeSocket {
		return ""
	}
	return path
}

// extraArgs are a VM's extra arguments, with its own vsock socket.
func (m *Manager) extraArgs(rec *Record) []string {
	i, at := vsockArg(rec.ExtraArgs)
	if at == "" {
		return rec.ExtraArgs
	}
	args := slices.Clone(rec.ExtraArgs)
	parts := options(args[i])
	for j, p := range parts {
		if isSocket(p) {
			parts[j] = p[:strings.Index(p, "socket=")] + `socket=` + m.VsockPath(rec)
		}
	}
	args[i] = strings.Join(parts, ",")
	return args
}

// vsockArg finds the argument with the options of --vsock, and the path of the
// socket in it; "" if there is none.
func vsockArg(args []string) (at int, socket string) {
	for i, a := range args {
		joined := strings.HasPrefix(a, "--vsock=")
		if !joined && (i == 0 || args[i-1] != "--vsock") {
			continue
		}
		for _, p := range options(a) {
			if isSocket(p) {
				_, path, _ := strings.Cut(p, "socket=")
				return i, strings.Trim(path, `"`)
			}
		}
	}
	return 0, ""
}

func isSocket(option string) bool {
	return strings.HasPrefix(strings.TrimPrefix(option, "--vsock="), "socket=")
}

// options splits the value of an argument as the VMM does: at commas that are
// not quoted.
func options(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

// clearVsock removes the socket left by the VMM of a VM: the VMM never does so
// itself, and cannot make one where one exists.
func (m *Manager) clearVsock(rec *Record) error {
	path := m.VsockPath(rec)
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Type() != os.ModeSocket {
		return durable.IgnoreMissing(err)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return failure.New(failure.Conflict, "another process listens on %s, the socket of the VM's vsock device", path)
	}
	return durable.IgnoreMissing(os.Remove(path))
}
