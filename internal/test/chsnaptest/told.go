package chsnaptest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// Told is a program in a folder that is the simulator, with words of its environment
// such as "CHSIM_FAIL=vm.boot=fail": a VMM gets nothing of a command's own.
func Told(t testing.TB, dir string, words ...string) string {
	t.Helper()
	script := "#!/bin/sh\n"
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		script += fmt.Sprintf("export %s='%s'\n", key, value)
	}
	f, err := os.CreateTemp(dir, "vmm-*.sh")
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = programtest.Write(f.Name(), []byte(script+"exec "+Build(t)+` "$@"`+"\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
