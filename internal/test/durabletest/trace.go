//go:build amd64

package durabletest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Program is what to run. Stdout and Stderr may be nil.
type Program struct {
	Path           string
	Args           []string // without the program's name
	Env            []string
	Dir            string
	Stdout, Stderr *os.File
}

// Verdict is what becomes of a call. The zero value lets it pass.
type Verdict struct {
	Errno unix.Errno // the call is not made and fails so
	Short bool       // a write that writes the first half only
	Kill  bool       // the program dies by SIGKILL before the call is made
}

// Tracer watches one run. Both functions may be nil.
type Tracer struct {
	Entry func(*Call) Verdict
	Exit  func(*Call) // calls that succeeded, with their result
}

// thread is a traced thread between the two stops of a system call.
type thread struct {
	in      bool
	call    *Call
	verdict Verdict
}

// run is one traced program.
type run struct {
	t       Tracer
	pid     int
	mem     *os.File
	threads map[int]*thread
}

// Run runs a program to its end and gives its wait status.
func Run(p Program, t Tracer) (unix.WaitStatus, error) {
	// The thread that starts the program is its tracer; no other may ask.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := start(p)
	if err != nil {
		return 0, fmt.Errorf("start %s under ptrace: %w", p.Path, err)
	}
	r := &run{t: t, pid: pid, threads: map[int]*thread{}}
	status, err := r.follow()
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // it cannot be followed any further
	}
	if r.mem != nil {
		err = errors.Join(err, r.mem.Close())
	}
	return status, err
}

func start(p Program) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	for i, f := range []*os.File{p.Stdout, p.Stderr} {
		if f != nil {
			files[i+1] = f.Fd()
		}
	}
	return syscall.ForkExec(p.Path, append([]string{p.Path}, p.Args...), &syscall.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
}

// follow resumes whatever stops until the program has ended.
func (r *run) follow() (unix.WaitStatus, error) {
	var status unix.WaitStatus
	if _, err := wait(r.pid, &status); err != nil || !status.Stopped() {
		return status, fmt.Errorf("wait for the first stop: %w", err)
	}
	err := unix.PtraceSetOptions(r.pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
	if err == nil {
		r.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", r.pid))
	}
	if err == nil {
		err = unix.PtraceSyscall(r.pid, 0)
	}
	if err != nil {
		return status, err
	}
	for {
		tid, err := wait(-r.pid, &status)
		if err != nil {
			return status, fmt.Errorf("wait for the program: %w", err)
		}
		if !status.Stopped() {
			delete(r.threads, tid)
			if tid == r.pid {
				return status, nil
			}
			continue
		}
		signal := 0
		switch sig := status.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			if err := r.stopped(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return status, err
			}
		case sig == unix.SIGTRAP || (sig == unix.SIGSTOP && r.threads[tid] == nil):
			// An event, or the first stop of a new thread.
		default:
			signal = int(sig)
		}
		if r.threads[tid] == nil {
			r.threads[tid] = &thread{}
		}
		if err := unix.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return status, err
		}
	}
}

func wait(pid int, status *unix.WaitStatus) (int, error) {
	for {
		tid, err := unix.Wait4(pid, status, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return tid, err
		}
	}
}

// stopped is one of the two stops of a system call.
func (r *run) stopped(tid int) error {
	th := r.threads[tid]
	if th == nil {
		th = &thread{}
		r.threads[tid] = th
	}
	th.in = !th.in
	if th.in {
		th.call, th.verdict = nil, Verdict{}
		return r.entry(tid, th)
	}
	return r.exit(tid, th)
}

func (r *run) entry(tid int, th *thread) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	if th.call = r.decode(&regs); th.call == nil {
		return nil
	}
	if r.t.Entry != nil {
		th.verdict = r.t.Entry(th.call)
	}
	switch v := th.verdict; {
	case v.Kill:
		return unix.Kill(r.pid, unix.SIGKILL)
	case v.Errno != 0:
		regs.Orig_rax = ^uint64(0) // no such call: the kernel does nothing
	case v.Short && th.call.Bytes > 1:
		regs.Rdx = uint64(th.call.Bytes / 2)
	default:
		return nil
	}
	return unix.PtraceSetRegs(tid, &regs)
}

func (r *run) exit(tid int, th *thread) error {
	if th.call == nil {
		return nil
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	if errno := th.verdict.Errno; errno != 0 {
		regs.Rax = uint64(-int64(errno))
		return unix.PtraceSetRegs(tid, &regs)
	}
	th.call.Result = int64(regs.Rax)
	if th.call.Result >= 0 && r.t.Exit != nil {
		r.complete(th.call)
		r.t.Exit(th.call)
	}
	return nil
}
