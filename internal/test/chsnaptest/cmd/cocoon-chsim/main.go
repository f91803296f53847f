// Command cocoon-chsim stands in for cloud-hypervisor v53 where KVM is missing
// or where a test needs the VMM to fail at a chosen call.
//
// It takes the command line of the real one as far as cocoon uses it, so it can
// be tried by hand in its place:
//
//	make build && bin/cocoon --hypervisor bin/cocoon-chsim demo
//	CHSIM_FAIL=vm.snapshot=fail#2 bin/cocoon-chsim --api-socket path=/tmp/s
//
// The environment says what the real one cannot be told: CHSIM_FAIL which call
// goes wrong and how, CHSIM_FILL how much RAM the guest fills. Package sim is all
// of it and describes them; package chsnaptest builds this for tests, and has the
// suite that it and the real VMM must pass.
package main

import (
	"os"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest/sim"
)

func main() {
	os.Exit(sim.Main(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
