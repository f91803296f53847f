package vm

import (
	"slices"
	"testing"
)

// TestAMachineIsNotToldTwice: of a VM's own arguments only those go to a VMM that
// boots a machine which say how it runs itself; the VMM refuses others without a
// kernel beside them.
func TestAMachineIsNotToldTwice(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{nil, nil},
		{[]string{"--watchdog", "--balloon=size=0", "--vsock", "cid=3,socket=/x"}, nil},
		{[]string{"--no-shutdown", "--watchdog", "-v"}, []string{"--no-shutdown", "-v"}},
		{[]string{"--log-file", "/l", "--rtc", "--event-monitor=path=/e"}, []string{"--log-file", "/l", "--event-monitor=path=/e"}},
		{[]string{"--landlock", "--landlock-rules", "path=/x,access=rw", "--seccomp=log"}, []string{"--seccomp=log"}},
		{[]string{"--log-file"}, []string{"--log-file"}},
	} {
		if got := processArgs(c.args); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.args, got, c.want)
		}
	}
}
