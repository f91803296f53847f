// Package network puts the interfaces of a VM on the networks of the host.
//
// Words: an attachment is one interface of one VM on one network. Outside is what
// the network sees of it: the device that CNI made in the VM's netns (Ifname, a
// veth for most plugins) with its MAC and addresses. Inside is the TAP that the
// VMM opens. Keep means that the guest owns the outside MAC and addresses: frames
// are redirected unchanged between both devices. Fresh means that the guest still
// uses the MAC and addresses of its snapshot: the TAP is routed, the netns acts
// as the old gateway, and nftables maps each old address to a new one. A record
// is a file in CacheDir that is written before the first plugin runs and removed
// after the last one was undone.
//
// Invariants:
//
//  1. Nothing is made, not even the netns, before the record that can undo it is
//     on disk: after a crash at any point, Leftovers finds it and Remove undoes
//     it. A netns without a record in CacheDir belongs to another store.
//  2. A failed Attach leaves nothing: no netns, TAP, CNI result or record.
//  3. Each ADD is preceded by a DEL. Plugins undo their work before the netns
//     goes, because some read their addresses from it.
//  4. A netns of this store carries the id of its VM as the alias of its
//     loopback, and the tag of the store as an alternative name of it
//     (ownership.go). A netns without the alias is never entered, changed or
//     removed.
//  5. No goroutine returns to the scheduler in a foreign namespace.
//  6. A plugin's result is compared with the request: a network that ignores the
//     requested address is an error, never another address.
//
// No program but the CNI plugins is started: links, filters, routes and NAT are
// set over netlink. See docs/network.md for the picture and the facts.
package network
