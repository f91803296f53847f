// Command cocoon-chsim stands in for cloud-hypervisor v53 where KVM is missing
// or where a test needs the VMM to fail at a chosen call. See package sim.
package main

import (
	"os"

	"github.com/cocoonv2/cocoon/chsnap/chsnaptest/sim"
)

func main() {
	os.Exit(sim.Main(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
