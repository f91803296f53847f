// Package networktest is what tests of attachments share: namespaces of their
// own, in which they may make bridges, netns and leases as they like, conflists
// for Debian's plugins, a list of all that an attachment leaves on a host, and
// ping.
//
// A test binary lives twice: the first life starts the second in a new network
// and mount namespace and waits for it. What the second makes on "the host" is
// never seen by the real one, and is gone when it ends.
package networktest
