package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/space"
)

// preflight makes every refusal possible before the pause, then, for file mode,
// the private staging folder.
func (c *session) preflight(ctx context.Context) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	var err error
	if c.parent, err = holdParent(ctx, c.Store, c.lease, c.parent, asked(c.req.Parent)); err != nil {
		return err
	}
	if c.mode == Live {
		return nil
	}
	return c.makeStaging(ctx)
}

// stagingBase is where the folder of file mode is made: where a confined VMM was
// allowed to write.
func (c *session) stagingBase(ctx context.Context) string {
	if room := c.VMs.Room(ctx, c.rec.ID, c.config); room != "" {
		return room
	}
	return chsnap.PickStaging(c.config.MemoryBytes(), c.Store.Path("ingest"))
}

// stages refuses file mode for a VMM that may not write there.
func (c *session) stages(ctx context.Context) error {
	if base := c.stagingBase(ctx); c.mode == File && !c.config.MayWrite(base) {
		return failure.Hint(failure.New(failure.Incompatible, "VM %s cannot be saved in file mode: its VMM confines itself by Landlock and may not write below %s", c.rec.Name, base),
			hint.Capture.Of()+" live needs no file; or boot it with --landlock-rules path="+base+",access=rw")
	}
	return nil
}

func (c *session) makeStaging(ctx context.Context) error {
	base := c.stagingBase(ctx)
	if base == c.VMs.Room(ctx, c.rec.ID, c.config) {
		if err := vm.ClearRoom(base); err != nil {
			return fmt.Errorf("clear %s: %w", base, err)
		}
	}
	if base == c.Store.Path("ingest") {
		base = filepath.Join(base, c.lease.ID())
		if err := os.MkdirAll(base, 0o700); err != nil {
			return fmt.Errorf("make staging folder: %w", err)
		}
	}
	me, err := c.Store.Owner(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, me.StagingPrefix(owner.OfCapture, c.rec.ID))
	if err != nil {
		return fmt.Errorf("make staging folder: %w", err)
	}
	c.staging = dir
	return nil
}

func (c *session) check(ctx context.Context) error {
	switch c.req.Mode {
	case "", Auto, Live, File:
	default:
		return failure.New(failure.Usage, "unknown capture mode %q: auto, live or file", c.req.Mode)
	}
	if !c.rec.State.Up() {
		return failure.Hint(failure.New(failure.Conflict, "VM %s is %s, not running", c.rec.Name, c.rec.State),
			"start it with: "+hint.Wake.Of(c.rec.Name))
	}
	if err := checkMeta(ctx, c.Store, c.req.meta(), c.req.Replace); errors.Is(err, failure.Conflict) {
		return failure.Hint(err, "choose another name or use "+hint.Replace.Of())
	} else if err != nil {
		return err
	}
	info, err := c.VMs.Client(c.rec).Info(ctx)
	if err != nil {
		return fmt.Errorf("ask VM %s: %w", c.rec.Name, err)
	}
	if err := c.believe(vm.StateOf(info)); err != nil {
		return err
	}
	c.config = info.Config
	if err := c.judge(); err != nil {
		return fmt.Errorf("VM %s cannot be saved: %w", c.rec.Name, err)
	}
	if err := c.chooseMode(ctx); err != nil {
		return err
	}
	if err := c.stages(ctx); err != nil {
		return err
	}
	if err := c.findKey(ctx); err != nil {
		return err
	}
	// Worst case: nothing compresses, disks have no holes, and RAM is staged on
	// the same disk.
	need := int64(info.Config.MemoryBytes()) + 2*c.diskBytes()
	return errors.Join(c.Store.Space().Require(need), c.Store.Space().RequireBlobs(c.packBytes()))
}

// believe takes the state of the guest from the VMM: the record does not know
// what was done without cocoon. A guest that was paused by something else stays
// paused.
func (c *session) believe(state vm.State) error {
	if state == vm.Shutdown {
		return vm.NotRunning(c.rec, state)
	}
	c.rec.State = state
	return nil
}

// packBytes is the worst-case size of this capture's packs.
func (c *session) packBytes() int64 {
	return space.WorstCase(int64(c.config.MemoryBytes()) + c.diskBytes())
}

// chooseMode decides between live and file, before anything is paused.
func (c *session) chooseMode(ctx context.Context) error {
	if c.req.Mode == File {
		c.mode = File
		return nil
	}
	ping, err := c.VMs.Client(c.rec).Ping(ctx)
	if err != nil {
		return fmt.Errorf("ask VM %s: %w", c.rec.Name, err)
	}
	c.mode = Live
	why := chsnap.LiveRefusal(ping.Version, c.config)
	switch {
	case why == "":
		return nil
	case c.req.Mode == Live:
		return failure.Hint(failure.New(failure.Incompatible, "VM %s cannot be saved live: %s", c.rec.Name, why),
			hint.Capture.Of()+" file pauses the guest while its RAM is written")
	}
	c.noteFile(why)
	return nil
}

// noteFile continues in file mode and reports why.
func (c *session) noteFile(why string) {
	c.mode = File
	if c.req.OnNote != nil {
		c.req.OnNote("file mode, the guest stands still while its RAM is written: " + why)
	}
}

// mayFallBack: an explicitly requested mode is never replaced.
func (c *session) mayFallBack() bool { return c.mode == Live && c.req.Mode != Live }

// fallBack changes to file mode when the VMM refused to begin a live capture.
func (c *session) fallBack(ctx context.Context, why string) error {
	c.noteFile(why)
	if err := c.stages(ctx); err != nil {
		return err
	}
	return c.makeStaging(ctx)
}

// diskBytes sums the allocated bytes of the writable disks.
func (c *session) diskBytes() int64 {
	var sum int64
	for _, d := range c.rec.Disks {
		if !d.Readonly {
			sum += allocated(filepath.Join(c.VMs.Dir(c.rec.ID), d.File))
		}
	}
	return sum
}

// findKey finds the parent, and refuses while nothing is touched what encryption
// forbids: storing in the clear because a setting was forgotten. A parent under
// another key only costs reuse, which is reported.
func (c *session) findKey(ctx context.Context) error {
	k, err := c.Store.SealingKey()
	if err != nil {
		return err
	}
	if err := c.findParent(ctx); err != nil || c.parent == nil {
		return err
	}
	if id, encrypted := c.parent.KeyID(); c.req.OnNote != nil && (encrypted != (k != nil) || encrypted && id != k.ID()) {
		c.req.OnNote(fmt.Sprintf("every page is stored anew: snapshot %s is %s, this one is %s", c.parent.ID, under(c.parent.Spec.Key), underKey(k)))
	}
	return nil
}

func underKey(k *keyring.Key) string {
	if k == nil {
		return under("")
	}
	return under(k.ID().String())
}

func under(key string) string {
	if key == "" {
		return "not encrypted"
	}
	return "encrypted with key " + key
}
