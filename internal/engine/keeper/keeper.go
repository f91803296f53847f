// Package keeper starts the VMM of a VM and stays beside it until it ends: a
// small process of this program for each VMM, since commands do not live that
// long.
//
// Words: the VMM is the supervised process; its keeper is its parent, or has
// taken it over from one that died; the end is how a VMM ended.
//
// A VMM gets only what it is given explicitly: descriptors, environment, limits,
// umask, signals, directory and session of the command stay behind (start.go). A
// shell starts it and then becomes the keeper, so a VMM does not wait for this
// program to start. The keeper
//
//   - limits the two logs of the run folder, whatever is printed and even if no
//     command runs (bound.go);
//   - records when the guest panicked and how the VMM ended (note.go), which the
//     kernel reports only to its parent.
//
// Invariants:
//
//  1. The VMM does not depend on its keeper. It writes to files, which never
//     block it, and a keeper that is killed or stopped leaves it as it was; the
//     next command starts another keeper.
//  2. A keeper ends when its VMM has ended.
//  3. There is one keeper per run folder: it holds the lock in it for its
//     lifetime, and a process that starts a VMM holds it before.
//  4. It holds no descriptor of a VM's disks: only the VMM holds their locks.
package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/runfolder"
)

// Files in the run folder of a VM.
const (
	SerialLog = "serial.log" // what the guest prints; the VMM opens it by its path
	VMMLog    = runfolder.LogFile
	lockFile  = "keeper.lock"
	endFile   = "exit.json"
	panicFile = "panic.json"
)

// Target is a VMM that runs, or ran.
type Target struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot, /proc/PID/stat field 22
}

// Verb is the hidden command of a program that is a keeper.
const Verb = "__keeper"

// Program is the program that keepers run: with Verb as its first argument it
// calls Main with the rest. "" is none: VMMs are started without keepers.
type Program string

// Main is the body of the keeper's process. args are the run folder, the limit of
// a log in bytes, how many descriptors were handed to the VMM, and its pid. The
// VMM is a child of this process unless its start time follows.
func Main(args []string) error {
	k, err := begin(args)
	if err != nil {
		return err
	}
	defer k.close()
	end, err := k.watch()
	if err != nil {
		return err
	}
	if err := writeNote(filepath.Join(k.dir, endFile), end); err != nil {
		return err
	}
	if k.child {
		_ = json.NewEncoder(os.NewFile(reportFD, "report")).Encode(end) // who asked may be gone
	}
	return nil
}

func begin(args []string) (*keeping, error) {
	if len(args) != 4 && len(args) != 5 {
		return nil, errors.New("a keeper is started by cocoon itself")
	}
	k := &keeping{dir: args[0], child: len(args) == 4, pidfd: -1, events: -1}
	var err error
	if k.logMax, err = strconv.ParseInt(args[1], 10, 64); err != nil {
		return nil, err
	}
	handed, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, err
	}
	if k.of.PID, err = strconv.Atoi(args[3]); err != nil {
		return nil, err
	}
	outlive()
	if k.child {
		err = k.adopt(handed)
	} else {
		err = k.takeOver(args[4])
	}
	if err == nil {
		err = k.openLogs()
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("keep process %d: %w", k.of.PID, err)
	}
	return k, nil
}

// outlive: signals that end the VMM, and then this process, must not end this
// process first.
func outlive() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
}

// adopt takes over what the shell, which this process was, has left.
func (k *keeping) adopt(handed int) error {
	k.events = eventsReadFD
	for fd := firstUnclosed; fd < firstHanded+handed; fd++ {
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	var err error
	if k.pidfd, err = unix.PidfdOpen(k.of.PID, 0); err != nil {
		return err
	}
	if k.of.StartTime, err = StartTime(k.of.PID); errors.Is(err, os.ErrProcessDone) {
		err = nil // it has ended, and waits for us to ask
	}
	return err
}
