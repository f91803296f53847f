package vm

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// TestAVMMOnItsWayOutIsNobodyElses: it has let go of the VM's files, and is there
// still. The end of the VM is said to be one, though nobody saw it yet.
func TestAVMMOnItsWayOutIsNobodyElses(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), halfEnded+"=1", "GOMAXPROCS=2")
	stays, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer stays.Close()
	for end := time.Now().Add(time.Minute); !keeper.Ending(c.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its first thread does not end")
		}
	}
	start, err := keeper.StartTime(c.Process.Pid)
	if err != nil {
		t.Fatalf("it has ended altogether: %v", err)
	}
	m := newManager(t)
	rec := &Record{ID: "0123456789abcdef0123456789abcdef", State: "running", Process: &Process{PID: c.Process.Pid, BootID: bootID(), StartTime: start}}
	m.live(t.Context(), rec)
	if rec.State != "stopped" || rec.Process != nil || rec.Exit == nil || rec.Exit.Reason != Unseen {
		t.Errorf("state %s, process %+v, exit %+v", rec.State, rec.Process, rec.Exit)
	}
	if keeper.Ending(os.Getpid()) {
		t.Error("this process is said to end")
	}
}
