// Package keeper starts the VMM of a VM and stays beside it until it ends: a
// small process of this program for each VMM, since no other process of ours
// outlives a command.
//
// Words: the VMM is the process that is kept; its keeper is its parent, or has
// taken it over from one that died; the end is how a VMM ceased to be.
//
// A VMM gets what it is told to and nothing else: descriptors, environment,
// limits, umask, signals, folder and session of whoever gave the command stay
// behind (start.go). It is started by a shell, which becomes the keeper
// afterwards: a VMM does not wait for this program to begin. The keeper
//
//   - keeps the two logs of the run folder within bounds, whatever is printed and
//     although nobody gives a command (bound.go);
//   - writes down when the guest panicked and how the VMM ended (note.go), which
//     only its parent gets to know.
//
// Invariants:
//
//  1. The VMM needs no keeper. It writes to files, which never make it wait, and
//     a keeper that is killed or stopped leaves it as it was; the next command
//     gives it another one.
//  2. A keeper ends when its VMM has ended.
//  3. There is one keeper to a run folder: it holds the lock in it for its life,
//     and whoever starts a VMM holds it before.
//  4. It holds no descriptor of a VM's disks: their locks are the VMM's alone.
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

// Program is the one that keepers are processes of: with Verb as its first
// argument it calls Main with the rest. "" is no program: VMMs are started and
// nobody keeps them.
type Program string

// Main is the body of the keeper's process. args are the run folder, the bound of
// a log in bytes, how many descriptors were handed to the VMM, and its pid. It is a
// child of this process unless its start time comes behind it.
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

// outlive: what ends the VMM, and with it this process, does not end it before.
func outlive() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
}

// adopt takes what the shell that this process was has left it.
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
