// Package chsnap is everything that cocoon knows about Cloud Hypervisor: the REST
// API on the unix socket, the snapshot folder and its two JSON documents, and how
// to capture a running VM without ever leaving it paused.
//
// [Client] speaks the API. [Config] and [State] are codecs that keep every
// byte they do not change, device ids above all: those are the keys that tie
// the two documents together. [ReadDir] reads a folder that anybody may have
// made. [Capture] saves a VM: pause, vm.snapshot, the caller's disks, resume;
// a guard process ([RunGuard]) resumes the VM when the capturing process dies.
// [CaptureLive] saves it while it runs, from its migration stream.
//
// Invariants: vm.resume always follows vm.pause, whatever happens; a path of the
// host that is not on the allow-list of [Config.Rewrite] never gets through; no
// length or offset in a document is used before it is checked.
//
// Facts about the VMM are in docs/cloud-hypervisor.md; they were observed on
// v53.0.
package chsnap
