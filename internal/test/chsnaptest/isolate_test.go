package chsnaptest

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestAProcessOutlivesAnIsolatedTest that ran on the thread which had started it:
// the VMM that the cases of Conformance share was started on some thread.
func TestAProcessOutlivesAnIsolatedTest(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Run("isolated", func(t *testing.T) {
		runtime.LockOSThread() // so that both are of one thread
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		isolate(t)
	})
	if cmd.Process == nil {
		t.Fatal("not started")
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Errorf("ended with the test: %v", err)
	case <-time.After(200 * time.Millisecond): // a thread that ends has ended by now
		_ = cmd.Process.Kill()
		<-ended
	}
}
