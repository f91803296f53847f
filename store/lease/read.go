package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// A lease is a file with lines in it, and neither can be written where the disk is
// full or mounted read-only, just when somebody wants to bring snapshots to another
// one. Who only reads what is published does not need lines: blobs go by nobody but
// who holds gc.lock alone, and a lock needs no room. So he holds that lock, shared
// with others like him; a collector that comes meanwhile is told, and its timer comes
// again.
//
// What a lease gives beyond that is lost: `snapshot rm` of what is being read goes
// through. The reader has the manifest in memory, and its blobs stay until he is done.

// keepOutWait is how long a collector that runs is waited for.
const keepOutWait = 30 * time.Second

// MakeToRead is Make for who only reads published snapshots, and need not be able to
// write.
func (ls *Leases) MakeToRead(ctx context.Context, purpose string) (*Lease, error) {
	l, err := ls.Make(ctx, purpose)
	if err == nil {
		l.reads = true
		return l, nil
	}
	if !durable.CannotWrite(err) {
		return nil, err
	}
	l = ls.begin(purpose, true)
	if err := l.keepOut(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// keepOut takes gc.lock among readers. Where there is none, since no collector ever
// came, and none can be made, the gate does, behind which a collector that comes
// after all waits.
func (l *Lease) keepOut(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepOutWait)
	defer cancel()
	var err error
	for _, name := range []string{"gc.lock", "gate.lock"} {
		l.out, err = filelock.Shared(ctx, l.at.Path(name))
		if err == nil || !durable.CannotWrite(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("keep the collector out: %w", err)
	}
	return nil
}

// KeptOut says why gc.lock cannot be had: another collector, or readers.
func (ls *Leases) KeptOut() error {
	path := ls.at.Path("gc.lock")
	if alone, err := filelock.Held(path); err == nil && !alone {
		return failure.New(failure.Busy, "commands that read snapshots keep the collector out, for they cannot write leases (the disk is full or read-only)")
	}
	return failure.New(failure.Busy, "another gc is running: %s", filelock.ReadNote(path))
}
