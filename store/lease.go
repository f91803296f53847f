package store

import (
	"context"

	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/lease"
)

// Lease keeps what this process works with: lease.Lease, and by what snapshots name.
type Lease struct {
	*lease.Lease
	st *Store
}

// Lease makes and locks a new lease; purpose is shown to operators.
func (s *Store) Lease(ctx context.Context, purpose string) (*Lease, error) {
	l, err := s.Leases().Make(ctx, purpose)
	if err != nil {
		return nil, err
	}
	return &Lease{l, s}, nil
}

// LeaseToRead is Lease for who only reads published snapshots, and need not be able
// to write.
func (s *Store) LeaseToRead(ctx context.Context, purpose string) (*Lease, error) {
	l, err := s.Leases().MakeToRead(ctx, purpose)
	if err != nil {
		return nil, err
	}
	return &Lease{l, s}, nil
}

// Leases are those of all processes.
func (s *Store) Leases() *lease.Leases { return lease.Of(s.at) }

// HoldEdges keeps everything that a published snapshot names, and gives the
// snapshot as it is then. Its manifest may be replaced while this looks: what is
// kept is what the answer names.
func (l *Lease) HoldEdges(ctx context.Context, id ID) (*Snapshot, error) {
	sn, err := l.st.Get(ctx, id)
	for err == nil {
		if err := l.Hold(ctx, document.Edges(sn)...); err != nil {
			return nil, err
		}
		if l.st.Current(sn) {
			return sn, nil
		}
		sn, err = l.st.Get(ctx, id)
	}
	return nil, err
}
