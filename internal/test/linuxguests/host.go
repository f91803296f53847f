package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// host is the emulated machine that runs the VMs.
type host struct {
	im   *images
	port int // of its sshd, on this machine's loopback
	qemu *exec.Cmd
	done chan struct{} // closed when QEMU has ended
}

// bootTime bounds a boot of the host: two to three minutes on a quiet core.
const bootTime = 15 * time.Minute

func boot(ctx context.Context, im *images) (*host, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	h := &host{im: im, port: port}
	if err := h.launch(); err != nil {
		return nil, err
	}
	if err := h.answers(ctx); err != nil {
		h.end()
		return nil, err
	}
	return h, nil
}

// launch starts QEMU. The network is restricted: the host reaches nobody, and
// is reached by ssh on the loopback address alone.
func (h *host) launch() error {
	at := func(name string) string { return filepath.Join(h.im.dir, name) }
	drive := func(name string) string {
		return "file=" + at(name) + ",if=virtio,format=raw,cache=unsafe,discard=unmap"
	}
	h.qemu = exec.Command("qemu-system-x86_64",
		"-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "EPYC,+svm,+npt", "-smp", "2", "-m", "7G", "-machine", "q35", "-display", "none",
		"-kernel", at("vmlinuz-host"), "-initrd", at("initrd-host"), "-append", "root=/dev/vda rw console=ttyS0 mitigations=off quiet",
		"-drive", drive("host.raw"), "-drive", drive("data.raw"), "-device", "virtio-rng-pci",
		"-netdev", fmt.Sprintf("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", h.port), "-device", "virtio-net-pci,netdev=n0",
		"-serial", "file:"+at("console.log"), "-monitor", "none")
	if err := h.qemu.Start(); err != nil {
		return err
	}
	h.done = make(chan struct{})
	go func() {
		_ = h.qemu.Wait() // why it ended is in its output; that it did is what counts
		close(h.done)
	}()
	return nil
}

func (h *host) pid() int { return h.qemu.Process.Pid }

// end stops QEMU at once: the images are made anew for each run.
func (h *host) end() {
	_ = h.qemu.Process.Kill()
	<-h.done
}

// reset is a power cut and a boot.
func (h *host) reset(ctx context.Context) error {
	h.end()
	if err := h.launch(); err != nil {
		return err
	}
	return h.answers(ctx)
}

// panicked waits until the emulated kernel has given up, and says so: what QEMU's
// nested SVM does to it is no scenario's fault.
func (h *host) panicked(ctx context.Context) error {
	for {
		console, err := os.ReadFile(filepath.Join(h.im.dir, "console.log"))
		if err != nil {
			return err
		}
		if _, why, found := bytes.Cut(console, []byte("Kernel panic - ")); found {
			why, _, _ = bytes.Cut(why, []byte("\n"))
			return fmt.Errorf("the emulated host panicked, try again: %s", bytes.TrimSpace(why))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Second):
		}
	}
}

func (h *host) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	return eventually(ctx, "the host to answer by ssh", func() error {
		select {
		case <-h.done:
			return errors.New("QEMU has ended")
		default:
		}
		_, err := h.sh(ctx, "true")
		return err
	})
}

// sh runs a bash script in the host and returns what it printed.
func (h *host) sh(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "ssh", "-q", "-i", h.im.key, "-p", strconv.Itoa(h.port), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60", "root@127.0.0.1", "bash -s")
	cmd.Stdin = strings.NewReader("set -euo pipefail\n. /etc/lab.env\n" + script + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, lastLines(out.String(), 12))
	}
	return out.String(), nil
}

// eventually asks every two seconds until ask answers nil or ctx ends.
func eventually(ctx context.Context, what string, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, err)
		case <-time.After(2 * time.Second):
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
