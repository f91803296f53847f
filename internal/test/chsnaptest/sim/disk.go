package sim

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The counter's place on a disk: sector 1, a magic and a little-endian uint64.
const (
	diskCounterOffset = 512
	diskMagic         = "COCOON\x00\x00"
)

// disk is one opened block device image.
type disk struct {
	config diskConfig
	file   *os.File
}

// openDisks opens every image and fills in the image type that was not given.
func openDisks(c *vmConfig) ([]*disk, error) {
	var disks []*disk
	for i := range c.Disks {
		d, err := openDisk(&c.Disks[i])
		if err != nil {
			closeDisks(disks)
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

func openDisk(c *diskConfig) (*disk, error) {
	mode := os.O_RDWR
	if c.Readonly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(c.Path, mode, 0)
	if err != nil {
		return nil, faultf("Error from device manager", "Cannot open disk path",
			fmt.Sprintf("I/O error (path=%s op=open)", c.Path)).because(err)
	}
	detected := detect(f)
	if c.ImageType == "" {
		c.ImageType = detected
	}
	if c.ImageType != detected {
		f.Close()
		return nil, faultf("Error from device manager",
			fmt.Sprintf("Disk image type does not match expected type: specified = %s, detected = %s", typeNames[c.ImageType], typeNames[detected]))
	}
	return &disk{config: *c, file: f}, nil
}

// typeNames are the image types as the messages spell them.
var typeNames = map[string]string{"Raw": "raw", "Qcow2": "qcow2", "FixedVhd": "vhd", "Vhdx": "vhdx"}

// detect says what an image is by what stands in it, which for a raw one is what
// the guest has written.
func detect(f *os.File) string {
	head, tail := make([]byte, 8), make([]byte, 8)
	if _, err := f.ReadAt(head, 0); err != nil {
		return "Raw"
	}
	if fi, err := f.Stat(); err == nil && fi.Size() >= 512 {
		if _, err := f.ReadAt(tail, fi.Size()-512); err != nil {
			return "Raw"
		}
	}
	switch {
	case string(head[:4]) == "QFI\xfb":
		return "Qcow2"
	case string(tail) == "conectix":
		return "FixedVhd"
	case string(head) == "vhdxfile":
		return "Vhdx"
	}
	return "Raw"
}

func closeDisks(disks []*disk) {
	for _, d := range disks {
		d.file.Close()
	}
}

// lockDisks takes an OFD lock on each image, for writing unless it is read-only.
// The locks go when the files are closed.
func lockDisks(disks []*disk) error {
	for _, d := range disks {
		kind, name := int16(unix.F_WRLCK), "Write"
		if d.config.Readonly {
			kind, name = unix.F_RDLCK, "Read"
		}
		l := syscall.Flock_t{Type: kind, Whence: io.SeekStart}
		if d.config.LockGranularity == "ByteRange" {
			info, err := d.file.Stat()
			if err != nil {
				return fmt.Errorf("reading the size of disk %s: %w", d.config.Path, err)
			}
			l.Len = info.Size()
		}
		if err := syscall.FcntlFlock(d.file.Fd(), unix.F_OFD_SETLK, &l); err != nil {
			return faultf("Error locking disk images: Another instance likely holds a lock",
				"Cannot lock images of all block devices",
				fmt.Sprintf("Failed to get %s lock for disk image: %s", name, d.config.Path),
				"The file is already locked")
		}
	}
	return nil
}

// unlockDisks gives the locks up while the images stay open, as the real one
// does before it sends its state. They come back with the next boot only.
func unlockDisks(disks []*disk) {
	for _, d := range disks {
		l := syscall.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
		_ = syscall.FcntlFlock(d.file.Fd(), unix.F_OFD_SETLK, &l) // nothing to be done about it
	}
}

// counterDisk picks the disk whose sector 1 the guest uses: the first writable
// raw image that has one. nil when there is none.
func counterDisk(disks []*disk) *disk {
	for _, d := range disks {
		if d.config.Readonly || d.config.ImageType != "Raw" {
			continue
		}
		if info, err := d.file.Stat(); err == nil && info.Size() >= 2*diskCounterOffset {
			return d
		}
	}
	return nil
}

// readCounter returns the counter on the disk; ok is false without the magic.
func (d *disk) readCounter() (counter uint64, ok bool, err error) {
	b := make([]byte, 16)
	if _, err := d.file.ReadAt(b, diskCounterOffset); err != nil {
		return 0, false, err
	}
	return binary.LittleEndian.Uint64(b[8:]), string(b[:8]) == diskMagic, nil
}

func (d *disk) writeCounter(counter uint64) error {
	b := binary.LittleEndian.AppendUint64([]byte(diskMagic), counter)
	_, err := d.file.WriteAt(b, diskCounterOffset)
	return err
}
