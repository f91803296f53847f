// Command linuxguests tries cocoon on real Linux guests: it makes a Debian host
// and a Debian guest from Debian's own packages, boots the host under QEMU
// without KVM (processor, SVM and nested paging are emulated), runs Cloud
// Hypervisor and cocoon in it, and asserts what an operator relies on.
//
//	go run ./internal/test/linuxguests -cocoon bin/cocoon [-vmm PATH] [-dir DIR] [-only NAME,…] [-keep]
//
// Files, each one idea:
//
//	build.go      Debian trees (mmdebstrap) and the images made of them, kept in DIR
//	host.go       the machine that QEMU emulates: boot, commands by ssh, reset, end
//	guests.go     what is asked of a guest through the host
//	scenarios.go  the list of scenarios; each stands on those before it
//	files/        what is put into host and guest
//
// It needs root, mmdebstrap, qemu-system-x86 and qemu-utils, erofs-utils,
// xfsprogs and ssh, some 8 GiB of memory and 6 GB of disk, and one processor for
// about half an hour. Nothing is fetched but Debian's packages. Times mean
// nothing here: an emulated processor is ten to fifty times slower than a real one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "linuxguests:", err)
		os.Exit(1)
	}
}

// options of one run.
type options struct {
	cocoon, vmm string // binaries that are tried
	dir         string // where trees and images are kept between runs
	only        []string
	keep        bool // leave the host running
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	images, err := build(ctx, o)
	if err != nil {
		return err
	}
	host, err := boot(ctx, images)
	if err != nil {
		return err
	}
	if o.keep {
		defer fmt.Printf("the host runs on: ssh -i %s -p %d root@127.0.0.1; end it by kill %d\n", images.key, host.port, host.pid())
	} else {
		defer host.end()
	}
	return report(ctx, &lab{host: host}, o.only)
}

func parse() (options, error) {
	var o options
	var only string
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	flag.StringVar(&o.cocoon, "cocoon", "bin/cocoon", "the `binary` that is tried, static")
	flag.StringVar(&o.vmm, "vmm", "", "`folder` of cloud-hypervisor and ch-remote (default: where PATH has them)")
	flag.StringVar(&o.dir, "dir", filepath.Join(cache, "cocoon-linux-guests"), "`folder` for trees and images, kept between runs")
	flag.StringVar(&only, "only", "", "these scenarios, comma-separated; those that they stand on are left out too")
	flag.BoolVar(&o.keep, "keep", false, "leave the host running")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	if os.Geteuid() != 0 {
		return o, errors.New("needs root: it makes file systems and device nodes")
	}
	if o.vmm == "" {
		path, err := exec.LookPath("cloud-hypervisor")
		if err != nil {
			return o, errors.New("no cloud-hypervisor on PATH; -vmm names its folder")
		}
		o.vmm = filepath.Dir(path)
	}
	for _, need := range []string{"mmdebstrap", "qemu-system-x86_64", "qemu-img", "mkfs.erofs", "mkfs.xfs", "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(need); err != nil {
			return o, fmt.Errorf("%s is missing: apt-get install mmdebstrap qemu-system-x86 qemu-utils erofs-utils xfsprogs openssh-client", need)
		}
	}
	return o, nil
}

// report runs the scenarios in order and prints a line for each. One that fails
// does not end the run, what the failure leaves may fail the next.
func report(ctx context.Context, l *lab, only []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(l.host.panicked(ctx)) }()
	passed, failed := 0, 0
	for _, s := range scenarios {
		if len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, s.limit())
		err := s.run(limited, l)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took := time.Since(begin).Round(time.Second)
		if err != nil {
			failed++
			fmt.Printf("FAIL  %-20s %5s  %s: %v\n", s.name, took, s.rule, err)
			continue
		}
		passed++
		fmt.Printf("ok    %-20s %5s  %s\n", s.name, took, s.rule)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return fmt.Errorf("%d scenarios failed", failed)
	}
	return nil
}
