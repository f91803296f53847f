package store

import (
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

// What a store is told and tells: the documents of a snapshot, which package document
// reads and checks.
type (
	ID          = layout.ID
	Snapshot    = document.Snapshot
	State       = document.State
	Descriptor  = document.Descriptor
	Spec        = document.Spec
	VMRef       = document.VMRef
	Hypervisor  = document.Hypervisor
	Host        = document.Host
	MemoryRange = document.MemoryRange
	Disk        = document.Disk
	Network     = document.Network
	ImageRef    = document.ImageRef
	Capture     = document.Capture
	Claim       = document.Claim
	Meta        = document.Meta
	Origin      = document.Origin
	Quarantine  = document.Quarantine
)

// The states of a snapshot.
const (
	Ready       = document.Ready
	Quarantined = document.Quarantined
	Damaged     = document.Damaged
)

// Media types of what a manifest names.
const (
	ArtifactType      = document.ArtifactType
	MediaTypeConfig   = document.MediaTypeConfig
	MediaTypePageMap  = document.MediaTypePageMap
	MediaTypePack     = document.MediaTypePack
	MediaTypeCHConfig = document.MediaTypeCHConfig
	MediaTypeCHState  = document.MediaTypeCHState
)
