package restore

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
)

// Host is what of this host decides whether it can go on with what another had.
type Host struct {
	VMM      chsnap.Version
	CPUFlags []string
	TSC      TSC
}

// TSC is the time stamp counter that guests of this host can have.
type TSC struct {
	KHz    uint64 // 0: not known, and not compared
	Scales bool   // the processor can show a guest another frequency
	PPM    uint64 // how far from its own KVM takes a frequency for the same
}

// ReadHost asks a VMM's binary and this host.
func ReadHost(ctx context.Context, binary string) (Host, error) {
	v, err := chsnap.AskVersion(ctx, binary)
	if err != nil {
		return Host{}, err
	}
	return Host{VMM: v, CPUFlags: hostfacts.CPU().Flags, TSC: readTSC()}, nil
}

// lacks are the processor flags of a snapshot that this host has not.
func (h Host) lacks(want []string) []string {
	var missing []string
	for _, f := range want {
		if !slices.Contains(h.CPUFlags, f) {
			missing = append(missing, f)
		}
	}
	return missing
}

// tscVerdict is what becomes of a guest whose counter went at khz.
type tscVerdict int

const (
	sameTSC   tscVerdict = iota
	slowerTSC            // the host's is slower: KVM keeps the guest's up by software
	fasterTSC            // the host's is faster: KVM refuses
)

// compare answers as KVM does when the VMM sets the frequency of a virtual CPU: a
// processor that cannot scale can only be helped on.
func (t TSC) compare(khz uint64) tscVerdict {
	switch {
	case khz == 0 || t.KHz == 0 || t.Scales:
		return sameTSC
	case khz*1_000_000 < t.KHz*(1_000_000-t.PPM):
		return fasterTSC
	case khz*1_000_000 > t.KHz*(1_000_000+t.PPM):
		return slowerTSC
	}
	return sameTSC
}

// Of KVM's interface (linux/kvm.h).
const (
	kvmCreateVM       = 0xAE01
	kvmCheckExtension = 0xAE03
	kvmCreateVCPU     = 0xAE41
	kvmGetTSCKHz      = 0xAEA3
	kvmCapTSCControl  = 60
)

// defaultPPM is what KVM tolerates unless its module was told otherwise.
const defaultPPM = 250

// readTSC asks KVM. Where it does not answer, nothing is compared: the VMM says
// what it thinks of it when it loads.
func readTSC() TSC {
	t := TSC{PPM: defaultPPM}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return t
	}
	defer kvm.Close()
	if n, err := ioctl(int(kvm.Fd()), kvmCheckExtension, kvmCapTSCControl); err == nil && n > 0 {
		t.Scales = true
		return t
	}
	if b, err := os.ReadFile("/sys/module/kvm/parameters/tsc_tolerance_ppm"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil {
			t.PPM = n
		}
	}
	if khz, err := tscOf(int(kvm.Fd())); err == nil {
		t.KHz = uint64(khz)
	}
	return t
}

// tscOf asks a VM, or its virtual CPU where the kernel is older than v5.16.
func tscOf(kvm int) (int, error) {
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(vm)
	if khz, err := ioctl(vm, kvmGetTSCKHz, 0); err == nil {
		return khz, nil
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(cpu)
	return ioctl(cpu, kvmGetTSCKHz, 0)
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
