package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Job describes a VMM to be started.
type Job struct {
	Dir         string     // its run folder
	Log         *os.File   // its output is appended there
	LogMax      int64      // of each log, bytes; 0 is DefaultLogMax
	Argv        []string   // the VMM, by its whole path, and its arguments
	Handed      []*os.File // descriptors that it inherits
	OOMScoreAdj int        // 0 leaves what it is
	Scope       *Scope     // nil: it stays in the cgroup of the command
	// In runs a function where the VMM must be started, e.g. on a thread in its
	// netns; nil is here.
	In func(func() error) error
}

// Scope is a cgroup for the VMM and its keeper.
type Scope struct {
	// Argv is the prefix of a command line that runs the rest in the scope, as
	// the same process.
	Argv []string
	Must bool // rather than start the VMM elsewhere
}

// Started is a VMM that was started.
type Started struct {
	PID int
	// Gone receives how the VMM ended, or nil if that will stay unknown.
	Gone <-chan *End
}

// Descriptors of the shell. The VMM gets the events and its own descriptors, the
// keeper all others.
const (
	eventsFD     = 3 // where the VMM writes its events
	reportFD     = 4 // the VMM's pid in a line, then its end
	eventsReadFD = 5
	lockFD       = 6
	firstHanded  = 7

	maxFD = math.MaxUint32
)

// firstUnclosed is the first of those handed on that a shell cannot name.
const firstUnclosed = 10

// script starts the VMM and becomes its keeper: a process keeps its children when
// it executes another program. $1 to $3 are arguments of the keeper, $4 is its
// program. Without one it becomes the VMM. Descriptors with locks that only the
// VMM may hold are closed first: its log, its seat, its disks.
const script = `umask 077; ulimit -c 0; unset PWD OLDPWD INVOCATION_ID
dir=$1 max=$2 handed=$3 keeper=$4; shift 4
if [ -z "$keeper" ]; then echo $$ >&4; exec "$@" 4>&- 5>&- 6>&-; fi
"$@" 4>&- 5>&- 6>&- &
echo $! >&4
exec "$keeper" ` + Verb + ` "$dir" "$max" "$handed" $! 3>&- 7>&- 8>&- 9>&- >>"$dir/` + VMMLog + `" 2>&1`

// Start starts the VMM of a job. Its logs exist, and nothing else works on its
// run folder.
func (p Program) Start(ctx context.Context, job Job) (*Started, error) {
	lock, err := within(ctx, job.Dir, lockWait)
	if err != nil {
		return nil, err
	}
	defer lock.Detach() // it is the keeper's from then on
	for _, name := range []string{endFile, panicFile} {
		if err := os.Remove(filepath.Join(job.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	s, err := p.shell(job, lock.File())
	if err != nil && job.Scope != nil && !job.Scope.Must {
		job.Scope = nil
		s, err = p.shell(job, lock.File())
	}
	if err != nil && job.Scope != nil {
		return nil, failure.Hint(fmt.Errorf("start %s in its own scope, since vmScope is on: %w: %s", job.Argv[0], err, LastLine(filepath.Join(job.Dir, VMMLog))), "set vmScope to auto to start VMs without one")
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", job.Argv[0], err)
	}
	return s, nil
}

// shell runs the script.
func (p Program) shell(job Job, lock *os.File) (*Started, error) {
	eventsR, eventsW, err := waitlessPipe()
	if err != nil {
		return nil, err
	}
	defer eventsR.Close()
	defer eventsW.Close()
	report, answer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	argv := slices.Concat(job.Scope.argv(), []string{"/bin/sh", "-c", script, "keeper", job.Dir, strconv.FormatInt(job.logMax(), 10), strconv.Itoa(len(job.Handed)), string(p)}, withEvents(job.Argv))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = job.Log, job.Log
	cmd.ExtraFiles = append([]*os.File{eventsW, answer, eventsR, lock}, job.Handed...)
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := start(cmd, job.In); err != nil {
		report.Close()
		return nil, err
	}
	answer.Close()
	s, err := listen(cmd, report)
	if err == nil {
		err = job.settle(cmd.Process.Pid, s.PID)
	}
	return s, err
}

func (s *Scope) argv() []string {
	if s == nil {
		return nil
	}
	return s.Argv
}

func (j *Job) logMax() int64 {
	if j.LogMax <= 0 {
		return DefaultLogMax
	}
	return j.LogMax
}

// waitlessPipe: a VMM does not wait for a reader of its events; what does not fit
// is lost.
func waitlessPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "events"), os.NewFile(uintptr(fds[1]), "events"), nil
}

// eventsArgs tell a VMM where to write its events.
var eventsArgs = []string{"--event-monitor", "fd=" + strconv.Itoa(eventsFD)}

// withEvents leaves the events to an operator who requests them.
func withEvents(argv []string) []string {
	if slices.ContainsFunc(argv, func(a string) bool { return strings.HasPrefix(a, eventsArgs[0]) }) {
		return argv
	}
	return slices.Concat(argv, eventsArgs)
}

// environment is the VMM's whole environment. It sets one malloc arena for all
// threads: with more, glibc reads a file when a thread's arena shrinks
// (/proc/sys/vm/overcommit_memory, openat), which the seccomp filter of the event
// thread forbids, and a v53.0 VMM dies of SIGSYS.
func environment() []string {
	return append(durable.Coverage(), "PATH="+os.Getenv("PATH"), "MALLOC_ARENA_MAX=1")
}

// start starts a child that inherits only the descriptors it is given and blocks
// no signal.
func start(cmd *exec.Cmd, in func(func() error) error) error {
	if err := InheritNothing(); err != nil {
		return err
	}
	unblocked := func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var none, before unix.Sigset_t
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, &before); err != nil {
			return err
		}
		return errors.Join(cmd.Start(), unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
	}
	if in == nil {
		return unblocked()
	}
	return in(unblocked)
}

// InheritNothing keeps all descriptors of this process from its children,
// including those it inherited itself; children get theirs explicitly.
func InheritNothing() error {
	if err := unix.CloseRange(3, maxFD, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors from children: %w", err)
	}
	return nil
}

// listen waits for the pid, and continues to listen for the end.
func listen(cmd *exec.Cmd, report *os.File) (*Started, error) {
	r := bufio.NewReader(report)
	line, err := r.ReadString('\n')
	pid, perr := strconv.Atoi(strings.TrimSpace(line))
	if err = errors.Join(err, perr); err != nil {
		report.Close()
		return nil, fmt.Errorf("the shell does not report the result: %w", errors.Join(err, cmd.Wait()))
	}
	gone := make(chan *End, 1)
	go func() {
		defer report.Close()
		end := &End{}
		told := json.NewDecoder(r).Decode(end) == nil
		_ = cmd.Wait() // the state says it all
		switch {
		case told:
		case pid == cmd.Process.Pid: // it has no keeper
			end = endOf(unix.WaitStatus(cmd.ProcessState.Sys().(syscall.WaitStatus)))
		default:
			end = nil
		}
		gone <- end
	}()
	return &Started{PID: pid, Gone: gone}, nil
}

// settle adjusts a VMM from outside, and the shell that becomes its keeper, which
// yields to the VMM meanwhile.
func (j *Job) settle(shell, vmm int) error {
	if shell != vmm {
		_ = unix.Setpriority(unix.PRIO_PROCESS, shell, 19) // it works as well without
	}
	if j.OOMScoreAdj == 0 {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", vmm), []byte(strconv.Itoa(j.OOMScoreAdj)), 0)
	if err != nil {
		return fmt.Errorf("set the OOM score of the VMM: %w", err)
	}
	return nil
}
