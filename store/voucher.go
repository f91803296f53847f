package store

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"syscall"
	"time"
)

// Whether the names file has a claim of every snapshot is told without a look at
// the snapshots by a voucher, the derived file cache/names.voucher:
//
//	BYTES SUM FOLDER CRC32
//
// The first BYTES of the names file, whose CRC-32 is SUM, claimed something for
// each snapshot that there was when the folder snapshots looked like FOLDER. Who
// holds names.lock writes it after he published or removed, if there was a valid
// one before; else only who has just listed the snapshots does.
//
// Any entry that comes or goes changes how the folder looks: whoever puts a snapshot
// there without knowing of vouchers makes the one that there is worth nothing. Two
// changes within a tick of the file system's clock may leave the same look, so a
// name is claimed durably where the folder is young (see youngFolder); then a power
// cut cannot take away a claim of a snapshot that the folder's look does not show.

// voucher is what the file says; its form is fixed-size, little-endian.
type voucher struct {
	Bytes  int64
	Sum    uint32
	Folder folderLook
}

// folderLook changes with the entries of a folder.
type folderLook struct {
	Inode, Links uint64
	Bytes        int64
	Mtime, Ctime int64 // ns
}

func (s *Store) voucherPath() string { return s.Path("cache", "names.voucher") }

func (s *Store) lookOfFolder() (l folderLook, err error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(s.Path("snapshots"), &st); err != nil {
		return l, err
	}
	return folderLook{st.Ino, uint64(st.Nlink), st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// youngFolder: it changed so short a time ago that it may look the same after the
// next change.
func (s *Store) youngFolder() bool {
	l, err := s.lookOfFolder()
	return err != nil || time.Since(time.Unix(0, l.Mtime)) < settled
}

// vouched gives the voucher, nil where there is none that holds for the folder as
// it looks now. Whether it holds for the names file is seen by who reads that.
func (s *Store) vouched() *voucher {
	v := &voucher{}
	b, err := os.ReadFile(s.voucherPath())
	if err != nil {
		return nil
	}
	n, err := binary.Decode(b, binary.LittleEndian, v)
	if err != nil || len(b) != n+4 || binary.LittleEndian.Uint32(b[n:]) != crc32.ChecksumIEEE(b[:n]) {
		return nil
	}
	if now, err := s.lookOfFolder(); err != nil || now != v.Folder {
		return nil
	}
	return v
}

// holds says whether it vouches for this names file; nil does not.
func (v *voucher) holds(names []byte) bool {
	if v == nil || v.Bytes < 1 || v.Bytes > int64(len(names)) || names[v.Bytes-1] != '\n' {
		return false
	}
	return v.Sum == crc32.ChecksumIEEE(names[:v.Bytes])
}

// vouch writes the voucher anew, for the names file and the folder as they are
// now; v, which held until the caller came, and nil for none that did. names.lock
// is held. It is best effort: without one the next who asks lists the snapshots.
func (s *Store) vouch(v *voucher) {
	if v == nil {
		return
	}
	next, err := s.extend(*v)
	if err != nil {
		return
	}
	if next.Folder, err = s.lookOfFolder(); err != nil {
		return
	}
	b, err := binary.Append(nil, binary.LittleEndian, next)
	if err != nil {
		return
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	f, err := os.OpenFile(s.voucherPath(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteAt(b, 0) // torn it has no checksum
	_ = f.Close()
}

// extend adds what was appended to the names file since.
func (s *Store) extend(v voucher) (voucher, error) {
	f, err := os.Open(s.namesPath())
	if err != nil {
		return v, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, v.Bytes, 1<<62))
	if c := decodeClaims(b, ""); err != nil || c == nil || c.torn {
		return v, io.ErrUnexpectedEOF
	}
	v.Bytes, v.Sum = v.Bytes+int64(len(b)), crc32.Update(v.Sum, crc32.IEEETable, b)
	return v, nil
}
