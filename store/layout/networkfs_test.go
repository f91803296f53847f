package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestNetworkFileSystemsAreRefused opens a store on a file system that is really
// mounted and really no local one: FUSE, played by this test.
func TestNetworkFileSystemsAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := mountFUSE(t, dir); err != nil {
		t.Skipf("no FUSE file system can be mounted here: %v", err)
	}
	_, err := Open(t.Context(), dir, true)
	if !errors.Is(err, failure.Incompatible) || !strings.Contains(err.Error(), "FUSE") || failure.HintOf(err) == "" {
		t.Errorf("store on FUSE: %v (hint %q), want incompatible and what to do", err, failure.HintOf(err))
	}
}

// TestEveryNetworkFileSystemHasItsMagic holds the table against linux/magic.h:
// statfs gives the number in an int64 whose upper half may be sign.
func TestEveryNetworkFileSystemHasItsMagic(t *testing.T) {
	for magic, want := range map[int64]string{
		unix.NFS_SUPER_MAGIC: "NFS", unix.V9FS_MAGIC: "9p", unix.FUSE_SUPER_MAGIC: "FUSE", unix.SMB_SUPER_MAGIC: "SMB",
		unix.CIFS_SUPER_MAGIC: "CIFS", unix.SMB2_SUPER_MAGIC: "SMB2", -0x1acb2be: "SMB2", unix.AFS_SUPER_MAGIC: "AFS", unix.AFS_FS_MAGIC: "AFS",
		unix.CEPH_SUPER_MAGIC: "Ceph", unix.CODA_SUPER_MAGIC: "Coda",
		unix.EXT4_SUPER_MAGIC: "", unix.XFS_SUPER_MAGIC: "", unix.BTRFS_SUPER_MAGIC: "", unix.TMPFS_MAGIC: "", unix.OVERLAYFS_SUPER_MAGIC: "",
	} {
		if got := networkFS(magic); got != want {
			t.Errorf("magic %#x is %q, want %q", magic, got, want)
		}
	}
}

// Requests of the FUSE protocol that a look at a root folder needs.
const (
	fuseLookup  = 1
	fuseGetattr = 3
	fuseStatfs  = 17
	fuseInit    = 26
)

// mountFUSE mounts a file system whose root is an empty folder of ours, and
// answers for it until the test ends.
func mountFUSE(t *testing.T, dir string) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Mount("test", dir, "fuse", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("fd=%d,rootmode=40700,user_id=0,group_id=0", fd)); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveFUSE(fd)
	}()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_FORCE); err != nil {
			t.Error(err)
		}
		<-done // the unmount ends the reading
	})
	return nil
}

func serveFUSE(fd int) {
	b := make([]byte, 1<<17)
	le := binary.LittleEndian
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		code, body := answerFUSE(le.Uint32(b[4:]))
		out := le.AppendUint32(nil, uint32(16+len(body)))
		out = le.AppendUint32(out, uint32(-int32(code)))
		out = append(out, b[8:16]...) // the request's number
		_, _ = unix.Write(fd, append(out, body...))
	}
}

func answerFUSE(opcode uint32) (unix.Errno, []byte) {
	le := binary.LittleEndian
	switch opcode {
	case fuseInit:
		b := make([]byte, 64)
		le.PutUint32(b[0:], 7)
		le.PutUint32(b[4:], 31)
		le.PutUint32(b[20:], 1<<16) // the largest write
		return 0, b
	case fuseGetattr:
		b := make([]byte, 104)
		le.PutUint64(b[16:], 1) // inode
		le.PutUint32(b[76:], unix.S_IFDIR|0o700)
		le.PutUint32(b[80:], 2) // links
		return 0, b
	case fuseStatfs:
		return 0, make([]byte, 80)
	case fuseLookup:
		return unix.ENOENT, nil
	}
	return unix.ENOSYS, nil
}
