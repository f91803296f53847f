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

// Host holds the facts about this host that decide whether it can continue a
// guest of another.
type Host struct {
	VMM      chsnap.Version
	CPUFlags []string
	TSC      TSC
}

// TSC describes the time stamp counter available to guests of this host.
type TSC struct {
	KHz    uint64 // 0: unknown, and not compared
	Scales bool   // the processor can present another frequency to a guest
	PPM    uint64 // tolerance within which KVM treats a frequency as its own
}

// ReadHost reads the facts from a VMM's binary and this host.
func ReadHost(ctx context.Context, binary string) (Host, error) {
	v, err := chsnap.AskVersion(ctx, binary)
	if err != nil {
		return Host{}, err
	}
	return Host{VMM: v, CPUFlags: hostfacts.CPU().Flags, TSC: readTSC()}, nil
}

// lacks are the processor flags of a snapshot that this host does not have.
func (h Host) lacks(want []string) []string {
	var missing []string
	for _, f := range want {
		if !slices.Contains(h.CPUFlags, f) {
			missing = append(missing, f)
		}
	}
	return missing
}

// tscVerdict says what happens to a guest whose counter ran at khz.
type tscVerdict int

const (
	sameTSC   tscVerdict = iota
	slowerTSC            // the host's is slower: KVM keeps the guest's pace in software
	fasterTSC            // the host's is faster: KVM refuses
)

// compare decides as KVM does when the VMM sets the frequency of a virtual CPU:
// without scaling, KVM can only make a guest's counter catch up, not slow it down.
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

// defaultPPM is KVM's tolerance unless its module parameter says otherwise.
const defaultPPM = 250

// readTSC asks KVM. If it does not answer, nothing is compared, and the VMM
// decides when it loads.
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

// tscOf asks a VM, or its virtual CPU on kernels older than v5.16.
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
