package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// A lease is a file with lines in it, and neither can be written if the disk is
// full or mounted read-only, which is just when snapshots have to be moved
// elsewhere. A process that only reads published data does not need lines: only
// the exclusive holder of gc.lock removes blobs, and a lock needs no space. So
// the reader holds that lock, shared with other readers; a collector that starts
// meanwhile is told so, and its timer starts it again.
//
// The other protection of a lease is lost: `snapshot rm` of what is being read
// succeeds. The reader has the manifest in memory, and the blobs stay until it is
// done.

// keepOutWait is how long to wait for a running collector.
const keepOutWait = 30 * time.Second

// MakeToRead is Make for processes that only read published snapshots, and may be
// unable to write.
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

// keepOut takes gc.lock shared. If it does not exist, since no collector ever
// ran, and cannot be made, it takes the gate, behind which a later collector
// waits.
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

// KeptOut says why gc.lock cannot be taken: another collector, or readers.
func (ls *Leases) KeptOut() error {
	path := ls.at.Path("gc.lock")
	if alone, err := filelock.Held(path); err == nil && !alone {
		return failure.New(failure.Busy, "commands that read snapshots keep the collector out, for they cannot write leases (the disk is full or read-only)")
	}
	return failure.New(failure.Busy, "another gc is running: %s", filelock.ReadNote(path))
}
