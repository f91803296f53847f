// Command benchvmm prints figures that only a real Cloud Hypervisor can give:
// what a guest notices of a capture, beside what an operator would do by hand
// through the API, in the same run on the same machine.
//
//	go run ./internal/test/benchvmm -cocoon bin/cocoon [-sizes 128M,1G,4G] [-runs 3] [-only live,disks,restore,network] [-dir DIR]
//
// Each section is one file that prints one table; sections lists them:
//
//	live.go     what a guest notices of a live capture, by size of its RAM
//	disks.go    how long a large disk keeps it paused, on ext4 and on XFS
//	restore.go  how long a rebuilt guest takes to run, with and without a cache
//	network.go  the same with a disk and a network of its own
//
// Words: by hand is what an operator types instead, calls of the VMM's API and
// cp; a silence is the longest time in which the guest printed nothing, a stall
// what of it is longer than when nothing is done (stall.go); a machine is a guest
// that runs (guestvm.go).
//
// It needs the real VMM, KVM and root, and says so instead of measuring a
// simulator. Guests, store and disks lie in a folder of their own that goes at
// the end, also after an interrupt. Seconds mean nothing on another machine, the
// ratios do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// section is one table.
type section struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

var sections = []section{
	{"live", liveSection},
	{"disks", disksSection},
	{"restore", restoreSection},
	{"network", networkSection},
}

// bench is one session of measuring.
type bench struct {
	cocoon string
	vmm    string
	sizes  []string // of guests, as cocoon takes them
	runs   int
	dir    string // where work is made
	work   string
	env    []string
}

func main() {
	var b bench
	flag.StringVar(&b.cocoon, "cocoon", "bin/cocoon", "the program")
	flag.StringVar(&b.vmm, "vmm", "cloud-hypervisor", "the real VMM")
	sizes := flag.String("sizes", "128M,1G,4G", "RAM of the guests")
	only := flag.String("only", "", "names of the sections to run, with commas (default: all)")
	flag.StringVar(&b.dir, "dir", "", "where the store and the disks lie (default: the temporary folder)")
	flag.IntVar(&b.runs, "runs", 3, "runs of each figure")
	flag.Parse()
	b.sizes = strings.Split(*sizes, ",")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, &b, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-vmm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, b *bench, only string) (err error) {
	if networktest.Isolated() { // the second life, which networkSection starts
		if err := networktest.Prepare(); err != nil {
			return err
		}
	}
	version, err := b.check(ctx)
	if err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(b.dir, "cocoon-benchvmm-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.clean()) }()
	if err := b.prepare(); err != nil {
		return err
	}
	if !networktest.Isolated() {
		fmt.Printf("machine: %d processors, %s, %s\n", runtime.NumCPU(), version, runtime.Version())
	}
	for _, s := range sections {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// check answers the VMM's version, or why nothing can be measured here.
func (b *bench) check(ctx context.Context) (string, error) {
	path, err := exec.LookPath(b.vmm)
	if err != nil {
		return "", fmt.Errorf("these figures need the real cloud-hypervisor, the simulator would only measure itself: %w", err)
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return "", fmt.Errorf("these figures need KVM: %w", err)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("these figures need root")
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	b.vmm = path
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}
