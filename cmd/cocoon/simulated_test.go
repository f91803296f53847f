package main

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// simulated lets the words CHSIM_… of an environment reach the simulator, which
// gets nothing of the command's own: its VMM is a script that says them.
func (h *host) simulated(env []string) []string {
	script, vmm := "#!/bin/sh\n", ""
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		if strings.HasPrefix(key, "CHSIM_") {
			script += fmt.Sprintf("export %s='%s'\n", key, value)
		}
		if key == "COCOON_HYPERVISOR" {
			vmm = value
		}
	}
	if !strings.Contains(script, "export") {
		return env
	}
	script += fmt.Sprintf("exec '%s' \"$@\"\n", vmm)
	path := filepath.Join(h.work, fmt.Sprintf("vmm-%08x.sh", crc32.ChecksumIEEE([]byte(script))))
	if _, err := os.Stat(path); err != nil {
		if err := programtest.Write(path, []byte(script)); err != nil {
			h.t.Fatal(err)
		}
	}
	return append(env, "COCOON_HYPERVISOR="+path)
}
