package vm

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

// halfEnded has a test binary end its first thread and stay until its stdin ends:
// for the kernel it is on its way out for as long.
const halfEnded = "COCOON_TEST_HALF_ENDED"

func init() { runtime.LockOSThread() } // TestMain is the first thread's

func TestMain(m *testing.M) {
	if os.Getenv(halfEnded) != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	if len(os.Args) > 1 && os.Args[1] == keeper.Verb { // of a VMM that a test started
		if err := keeper.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	leaktest.Main(m)
}
