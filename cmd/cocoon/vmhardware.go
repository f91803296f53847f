package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
)

// hardwareFlags are the flags of `vm create` for processors, RAM and devices. A
// flag that may stand alone takes its value after an equals sign: --vsock=cid=7.
type hardwareFlags struct{ cpus, memory, vsock, console, balloon string }

func (f *hardwareFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.cpus, "cpus", "1", "virtual CPUs: `N`, or boot=N[,max=N][,topology=THREADS:CORES:DIES:PACKAGES]")
	fl.StringVar(&f.memory, "memory", "512M", "RAM: `SIZE`, or size=SIZE[,shared][,hugepages][,hugepage-size=SIZE][,hotplug=SIZE]")
	fl.StringVar(&f.vsock, "vsock", "", "a vsock device, with the guest at address 3 or `cid=N`; its socket: vm inspect")
	fl.StringVar(&f.console, "console", "off", "`off`, or null: an unconnected virtio console")
	fl.StringVar(&f.balloon, "balloon", "", "a balloon, empty or `size=SIZE`[,deflate-on-oom][,free-page-reporting]")
	for _, name := range []string{"vsock", "balloon"} {
		fl.Lookup(name).NoOptDefVal = withoutValue
	}
}

// withoutValue is the value of a flag that has none.
const withoutValue = "on"

// oneName is cobra.ExactArgs(1) with an explanation for flags that may stand
// alone.
func oneName(c *cobra.Command, args []string) error {
	if len(args) == 2 && strings.Contains(args[1], "=") {
		return fmt.Errorf("%q must follow its flag and an equals sign: --vsock=cid=7, --balloon=size=64M", args[1])
	}
	return cobra.ExactArgs(1)(c, args)
}

func (f *hardwareFlags) fill(s *vm.CreateSpec) error {
	h := &s.Hardware
	for _, read := range []func(*vm.CreateSpec) error{f.readCPUs, f.readMemory, f.readVsock, f.readBalloon} {
		if err := read(s); err != nil {
			return err
		}
	}
	switch f.console {
	case "off":
	case "null":
		h.Console = true
	default:
		return failure.New(failure.Usage, "--console %q: off or null", f.console)
	}
	return nil
}

// hardwareOptions reads KEY[=VALUE],…; each key stands once.
func hardwareOptions(flag, text string, keys map[string]func(value string) error, allowed string) error {
	seen := map[string]bool{}
	for _, o := range strings.Split(text, ",") {
		key, value, _ := strings.Cut(o, "=")
		read, known := keys[key]
		if !known || seen[key] {
			return failure.New(failure.Usage, "%s %q: %q is not one of %s", flag, text, o, allowed)
		}
		seen[key] = true
		if err := read(value); err != nil {
			return err
		}
	}
	return nil
}

func (f *hardwareFlags) readCPUs(s *vm.CreateSpec) error {
	if n, err := strconv.Atoi(f.cpus); err == nil {
		s.CPUs = n
		return nil
	}
	count := func(key string, to *int) func(string) error {
		return func(v string) (err error) {
			if *to, err = strconv.Atoi(v); err != nil || *to < 1 {
				return failure.New(failure.Usage, "--cpus %s=%s: 1 to %d", key, v, vm.MaxCPUs)
			}
			return nil
		}
	}
	err := hardwareOptions("--cpus", f.cpus, map[string]func(string) error{
		"boot": count("boot", &s.CPUs), "max": count("max", &s.Hardware.MaxCPUs),
		"topology": func(v string) (err error) { s.Hardware.Topology, err = vm.ParseTopology(v); return err },
	}, "N, boot=N, max=N, topology=THREADS:CORES:DIES:PACKAGES")
	if err == nil && s.CPUs == 0 {
		err = failure.New(failure.Usage, "--cpus %q: boot=N is missing", f.cpus)
	}
	return err
}

func (f *hardwareFlags) readMemory(s *vm.CreateSpec) (err error) {
	if f.memory == "" || f.memory[0] >= '0' && f.memory[0] <= '9' {
		s.MemoryBytes, err = config.ParseSize("--memory", f.memory)
		return err
	}
	h := &s.Hardware
	err = hardwareOptions("--memory", f.memory, map[string]func(string) error{
		"size": sizeOption("--memory size", &s.MemoryBytes), "shared": toggle("--memory shared", &h.Shared), "hugepages": toggle("--memory hugepages", &h.HugePages),
		"hugepage-size": sizeOption("--memory hugepage-size", &h.HugePageBytes), "hotplug": sizeOption("--memory hotplug", &s.HotplugBytes),
	}, "size=SIZE, shared, hugepages, hugepage-size=SIZE, hotplug=SIZE")
	h.VirtioMem = s.HotplugBytes > 0
	switch {
	case err != nil:
		return err
	case s.MemoryBytes == 0:
		return failure.New(failure.Usage, "--memory %q: size=SIZE is missing", f.memory)
	case h.HugePageBytes > 0 && !h.HugePages:
		return failure.New(failure.Usage, "--memory %q: hugepage-size= goes with hugepages", f.memory)
	}
	return nil
}

func (f *hardwareFlags) readVsock(s *vm.CreateSpec) error {
	const first = 3 // of a guest
	switch f.vsock {
	case "":
		return nil
	case withoutValue:
		s.Hardware.VsockCID = first
		return nil
	}
	return hardwareOptions("--vsock", f.vsock, map[string]func(string) error{"cid": func(v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n < first {
			return failure.New(failure.Usage, "--vsock cid=%s: %d to %d", v, first, uint32(1<<32-2))
		}
		s.Hardware.VsockCID = uint32(n)
		return nil
	}}, "cid=N")
}

func (f *hardwareFlags) readBalloon(s *vm.CreateSpec) error {
	if f.balloon == "" {
		return nil
	}
	b := &vm.Balloon{}
	s.Hardware.Balloon = b
	if f.balloon == withoutValue {
		return nil
	}
	return hardwareOptions("--balloon", f.balloon, map[string]func(string) error{
		"size":           sizeOption("--balloon size", &b.Bytes),
		"deflate-on-oom": toggle("--balloon deflate-on-oom", &b.DeflateOnOOM), "free-page-reporting": toggle("--balloon free-page-reporting", &b.FreePageReporting),
	}, "size=SIZE, deflate-on-oom, free-page-reporting")
}

func sizeOption(flag string, to *int64) func(string) error {
	return func(v string) (err error) {
		if v == "0" {
			return nil
		}
		*to, err = config.ParseSize(flag, v)
		return err
	}
}

// toggle is on where it stands alone.
func toggle(flag string, to *bool) func(string) error {
	return func(v string) error {
		switch v {
		case "", "on", "true":
			*to = true
		case "off", "false":
			*to = false
		default:
			return failure.New(failure.Usage, "%s=%s: on or off", flag, v)
		}
		return nil
	}
}
