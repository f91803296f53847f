// Package chsnaptest is where tests get a VMM from, and the proof that the two
// kinds of VMM behave alike.
//
// A VMM is a cloud-hypervisor binary: the real one, where KVM works, or the
// simulator (package sim, built from cmd/cocoon-chsim), which has the same
// command line, REST API, error chains and snapshot folders. VMM picks one and
// says why; Conformance is the suite both must pass, so that what a test learns
// from the simulator holds for the real one.
//
// The suite drives the VMM with a client of its own (client.go), the smallest
// that can work: it must not trust the client that other packages test with it.
// It needs a kernel that speaks the guest protocol on the serial port: BOOT,
// FILLED, then one line "tick %08x %08x" (RAM counter, disk counter) a turn, and
// BAD lines when RAM or disk are not what the guest wrote.
//
// Environment: COCOON_TEST_VMM=sim|real forces the choice of VMM;
// COCOON_TEST_CHSIM names a simulator binary to use instead of building one;
// COCOON_TEST_KERNEL names the guest ELF.
package chsnaptest
