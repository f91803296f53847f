// Package network puts the interfaces of a VM on the networks of the host.
//
// Words: an attachment is one interface of one VM on one network. Outside is
// what the network sees of it: the device that CNI made in the VM's netns
// (Ifname, a veth for most plugins) with its MAC and addresses. Inside is the
// TAP that the VMM opens. Keep means that the guest owns the outside MAC and
// addresses: frames are redirected unchanged between both devices. Fresh means
// that the guest still believes the MAC and addresses of its snapshot: the TAP
// is routed, the old gateway is played by the netns, and nftables maps each old
// address to a new one. A record is a file in CacheDir that is written before
// the first plugin runs and removed after the last one was undone.
//
// Invariants:
//
//  1. Nothing is made, not even the netns, before the record that can undo it is
//     on disk: whatever dies when, Leftovers sees it and Remove undoes it. A
//     netns without a record in CacheDir is another store's.
//  2. A failed Attach leaves nothing: no netns, TAP, CNI result or record.
//  3. A DEL goes before each ADD. Plugins undo before the netns goes, because
//     some read their addresses from it.
//  4. A netns of ours carries the id of its VM as the alias of its loopback, and the
//     tag of its store as another name of it (ownership.go). A
//     netns without it is never entered, changed or removed.
//  5. No goroutine returns to the scheduler in a foreign namespace.
//  6. What a plugin answered is compared with what was asked: a network that
//     ignores the wanted address is an error, never another address.
//
// No program but the CNI plugins is started: links, filters, routes and NAT are
// set over netlink. See docs/network.md for the picture and the facts.
package network
