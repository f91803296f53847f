package document

import (
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Origin is how a snapshot came into this store. It lies in meta.json, which no
// snapshot brings along, and is written once, by what published the snapshot here:
// what a snapshot says of its VM and its capture is the word of whoever made it.
// Exactly one of Captured, Pulled, Imported and Lost is set.
type Origin struct {
	Captured bool      `json:"captured,omitempty"` // here, of the VM that it names
	Pulled   string    `json:"pulled,omitempty"`   // registry reference, as it was given
	Imported string    `json:"imported,omitempty"` // path, or - for a stream
	Lost     bool      `json:"lost,omitempty"`     // it was noted in a meta.json that is lost
	At       time.Time `json:"at"`
}

// Foreign tells whether the snapshot came from elsewhere. Of one that has no
// origin, since an earlier program published it, only its own word is known.
func (sn *Snapshot) Foreign() bool {
	if o := sn.Meta.Origin; o != nil {
		return !o.Captured
	}
	return sn.Spec.Capture.Mode == importMode
}

// CapturedHere: this store says so itself.
func (sn *Snapshot) CapturedHere() bool {
	return sn.Meta.Origin != nil && sn.Meta.Origin.Captured
}

// Came is since when the snapshot counts as one of its VM: when it was captured,
// but no later than it came here. A time that others wrote would make it the newest.
func (sn *Snapshot) Came() time.Time {
	if o := sn.Meta.Origin; o != nil && o.At.Before(sn.Spec.Created) {
		return o.At
	}
	return sn.Spec.Created
}

// String says in a few words where it came from.
func (o *Origin) String() string {
	switch {
	case o == nil:
		return "came before this was noted"
	case o.Captured:
		return "was captured here"
	case o.Pulled != "":
		return "was pulled from " + o.Pulled
	case o.Lost:
		return "came from where is not known any more"
	}
	return "was imported from " + o.Imported
}

// importMode is the capture mode of a folder that was imported.
const importMode = "import"

// Come notes where a snapshot that is made here comes from: a VM, unless whoever
// makes it says that it is a folder of somebody's.
func (m *Meta) Come(sp Spec) (err error) {
	if m.Origin == nil && sp.Capture.Mode != importMode {
		m.Origin = &Origin{Captured: true}
	}
	m.Origin, err = m.Origin.Now(sp.Capture.Mode == importMode)
	return err
}

// Now is the origin of what is published at this moment. Whoever publishes has to
// say where it comes from; what is taken in is foreign.
func (o *Origin) Now(foreign bool) (*Origin, error) {
	if o == nil || o.Captured == foreign || foreign && o.Pulled == "" && o.Imported == "" {
		return nil, failure.New(failure.Usage, "publish a snapshot of the origin %+v", o)
	}
	at := *o
	at.At = time.Now().UTC()
	return &at, nil
}
