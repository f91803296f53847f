//go:build amd64

// Package durabletest is a file system that fails and forgets, for programs that
// know nothing of it.
//
// It stands between a program and the kernel: [Run] starts the program under
// ptrace and shows every system call that may change a file, with the place in
// the program that made it. The caller lets it pass, makes it fail, cuts a write
// short or kills the program there. So no code needs an interface to its file
// system for the sake of tests, and no code is left out: libraries too call the
// kernel.
//
// What passed is a list of calls, and [Disk] is what such a list leaves after a
// power cut: of all that was not fsynced, contents and folder entries alike, any
// part may be gone.
//
// Only threads are followed, not child processes: what those do is not seen.
// Inode numbers must not be used twice, so traced files lie on a tmpfs.
package durabletest
