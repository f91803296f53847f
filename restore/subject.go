package restore

import (
	"context"
	"fmt"
	"reflect"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// subject is a snapshot as it was read: every document decoded once, and the VM
// they describe. Plans and runs share it, read-only.
type subject struct {
	snapshot *store.Snapshot
	source   *vm.Blueprint
	config   *chsnap.Config
	state    *chsnap.State
	maps     *contents.Maps
	ram      sized
	sizes    []sized // of its disks, as their page maps say; zero where a disk is an image
}

// sized is an image of a snapshot: its size, and how much of it is non-zero and
// takes space as a sparse file.
type sized struct{ bytes, stored int64 }

func sizeOf(m *pack.Map) sized {
	_, stored := m.Stat()
	return sized{int64(m.Bytes), int64(stored) * pack.PageSize}
}

// read refuses a snapshot that can never be rebuilt: one that is quarantined,
// whose key is missing, that lacks something, or whose documents do not describe
// one VM. They are checked each time: another program may have accepted it
// unchecked, and encrypted ones cannot be checked without the key.
func (e *Engine) read(ctx context.Context, sn *store.Snapshot) (*subject, error) {
	if err := sn.Usable(); err != nil {
		return nil, err
	}
	if err := contents.Of(e.Store, sn).Unlock(ctx); err != nil {
		return nil, err
	}
	s := &subject{snapshot: sn}
	var err error
	if s.maps, err = contents.Of(e.Store, sn).Maps(ctx); err != nil {
		return nil, err
	}
	if s.config, s.state, err = e.readConfig(ctx, sn); err != nil {
		return nil, err
	}
	s.source, err = vm.Agree(vm.Documents{Spec: &sn.Spec, Config: s.config, State: s.state, Own: !sn.Foreign()})
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", sn.ID, err)
	}
	s.measure()
	return s, nil
}

// measure computes from the page maps how large everything is, and the space it
// takes.
func (s *subject) measure() {
	for _, m := range s.maps.Memory {
		n := sizeOf(m)
		s.ram.bytes, s.ram.stored = s.ram.bytes+n.bytes, s.ram.stored+n.stored
	}
	for _, m := range s.maps.Disks {
		var n sized
		if m != nil {
			n = sizeOf(m)
		}
		s.sizes = append(s.sizes, n)
	}
}

func (e *Engine) readConfig(ctx context.Context, sn *store.Snapshot) (*chsnap.Config, *chsnap.State, error) {
	cb, err := contents.Of(e.Store, sn).Document(ctx, store.MediaTypeCHConfig)
	if err != nil {
		return nil, nil, err
	}
	sb, err := contents.Of(e.Store, sn).Document(ctx, store.MediaTypeCHState)
	if err != nil {
		return nil, nil, err
	}
	c, err := chsnap.ParseConfig(cb)
	if err != nil {
		return nil, nil, fmt.Errorf("config of snapshot %s: %w", sn.ID, err)
	}
	s, err := chsnap.ParseState(sb)
	if err != nil {
		return nil, nil, fmt.Errorf("state of snapshot %s: %w", sn.ID, err)
	}
	return c, s, nil
}

// hold leases everything a snapshot names, so that gc leaves it alone, and reads
// it.
func (e *Engine) hold(ctx context.Context, lease *store.Lease, id store.ID) (*subject, error) {
	sn, err := lease.HoldEdges(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s was removed meanwhile: %w", id, err)
	}
	return e.read(ctx, sn)
}

// holdPlanned is hold for a snapshot that was planned. If its pages were moved to
// other packs since, it is read again, and must make the same VM.
func (e *Engine) holdPlanned(ctx context.Context, lease *store.Lease, s *subject) (*subject, error) {
	id := s.snapshot.ID
	sn, err := lease.HoldEdges(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s was removed meanwhile: %w", id, err)
	}
	if sn.ManifestDigest == s.snapshot.ManifestDigest {
		return s, nil // what the plan saw exists as long as this manifest does
	}
	now, err := e.read(ctx, sn)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(s.source, now.source) {
		return nil, failure.New(failure.Conflict, "snapshot %s was replaced by another of its id", id)
	}
	return now, nil
}
