package chsnap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// AskVersion asks a VMM's binary for its version. For a release, the output of
// --version suffices; any other build is started without a VM and asked as a
// capture asks, so that both sides of a comparison come from the same answer.
func AskVersion(ctx context.Context, binary string) (Version, error) {
	build, err := AskBuild(ctx, binary)
	if err != nil {
		return Version{}, err
	}
	if v := packageOf(build); v != "" {
		return Version{Package: v, Build: build}, nil
	}
	v, err := askRunning(ctx, binary)
	if err != nil {
		return Version{}, failure.New(failure.Incompatible, "ask %s for its version: %w", binary, err)
	}
	return v, nil
}

// AskBuild returns the version from the output of --version: the last word of
// "cloud-hypervisor v53.0-246-gae44c2971".
func AskBuild(ctx context.Context, binary string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Env = onlyPath()
	out, err := cmd.Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return "", failure.New(failure.NotFound, "%s is not installed", binary)
		}
		return "", failure.New(failure.Incompatible, "%s --version: %w", binary, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	for _, w := range strings.Fields(first) {
		if v, ok := strings.CutPrefix(w, "v"); ok && v != "" && v[0] >= '0' && v[0] <= '9' {
			return w, nil
		}
	}
	return "", failure.New(failure.Incompatible, "%s --version says %q: no version in it", binary, first)
}

// onlyPath is all the environment that a VMM needs; the rest may contain secrets.
func onlyPath() []string { return []string{"PATH=" + os.Getenv("PATH")} }

// askRunning starts the VMM on a socket whose name was removed before anybody
// could use it, and on which one connection already waits.
func askRunning(ctx context.Context, binary string) (Version, error) {
	ctx, cancel := patience.Bound(ctx, patience.Default.Call())
	defer cancel()
	conn, socket, err := nameless()
	if err != nil {
		return Version{}, err
	}
	defer conn.Close()
	runtime.LockOSThread() // the VMM dies with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, binary, "--api-socket", "fd=3")
	cmd.Env, cmd.ExtraFiles = onlyPath(), []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	err = cmd.Start()
	socket.Close()
	if err != nil {
		return Version{}, err
	}
	v, err := pingOn(ctx, conn)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	return v, err
}

// nameless is a listening socket, for a child to accept on, and a connection to
// it.
func nameless() (net.Conn, *os.File, error) {
	dir, err := os.MkdirTemp("", "cocoon-ask-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	f, err := l.File()
	if err != nil {
		conn.Close()
	}
	return conn, f, err
}

func pingOn(ctx context.Context, conn net.Conn) (Version, error) {
	only := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	client := http.Client{Transport: &http.Transport{DialContext: only, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vmm/api/v1/vmm.ping", nil)
	if err != nil {
		return Version{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Version{}, err
	}
	defer resp.Body.Close()
	var p Ping
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, answerLimit)).Decode(&p); err != nil {
		return Version{}, fmt.Errorf("vmm.ping: %w", err)
	}
	return p.Is(), nil
}
