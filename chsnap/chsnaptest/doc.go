// Package chsnaptest runs tests of Cloud Hypervisor's snapshots against the real
// VMM or, where that cannot run, against a simulator of it (package sim).
package chsnaptest
