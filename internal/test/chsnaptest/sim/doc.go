// Package sim is a Cloud Hypervisor that needs no KVM: a process with the same
// command line, REST API, state machine, error chains and snapshot folders as
// v53.0, around a guest that is a goroutine.
//
// Words. The machine is what the API acts on: a configuration that may be
// stored without a VM (state Created), and a VM that is Running or Paused. The
// guest is a goroutine that owns RAM exactly as a vCPU would: it fills memory
// with a pattern, verifies it for ever, dirties one page a tick, keeps a
// counter in RAM and the same counter in sector 1 of the first writable raw
// disk, and prints both to the serial port. Everything it knows stands in RAM
// (see guest.go), so a wrong restore shows as a BAD line.
//
// What holds at all times:
//  1. Requests are served one by one, whatever the connection; a slow call makes
//     every other call wait, vmm.ping included.
//  2. From the answer to vm.pause to that of vm.resume the guest writes neither
//     RAM nor disk nor serial.
//  3. A failed vm.snapshot leaves behind exactly what the real one leaves: files
//     already written stay, memory-ranges keeps its full size.
//  4. A snapshot taken, restored and resumed continues the counter where the
//     pause left it.
//  5. vm.send-migration streams the VM as the real one does (send.go): all of
//     RAM, what became dirty, pause, the rest, disk locks given up, state. A
//     peer that refuses or goes away leaves the guest running.
//
// It must never be more forgiving than the real VMM where that could hide a
// mistake of ours: files are created O_EXCL, locked disks are refused, a device
// without saved state is reported by the guest.
//
// Its first network device is a TAP like that of the real one, on which the
// guest answers ARP and ICMP echo and sends its counter (network.go).
//
// A vsock device has its socket, which stays behind; further devices only stand
// in the configuration.
//
// What it does not do: execute a kernel (the file must exist), hot-plug other
// devices than disks, check CPUIDs.
//
// Environment:
//
//	CHSIM_FAIL          failpoints, see failpoint.go
//	CHSIM_FILL          bytes of RAM that get the pattern (default 64 MiB; 8M, 1G)
//	CHSIM_TICK          time between ticks (default 10ms)
//	CHSIM_VERSION       what vmm.ping reports (default 53.0.0)
//	CHSIM_BUILD         what --version prints (default: that version)
//	CHSIM_NMI           "panic": an NMI makes the guest print a panic and stop;
//	                    "pvpanic": it tells the VMM instead
//	CHSIM_NOISE         a line that the guest prints for ever instead of its counter
//	CHSIM_POWER_BUTTON  "ignore": the guest does not react to vm.power-button;
//	                    "late": it does not hear the first
package sim
