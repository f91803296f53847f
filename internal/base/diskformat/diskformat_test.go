package diskformat

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestBothRoomsHearOfAFormat: what is a wrapping, and for what the VMM takes it.
func TestBothRoomsHearOfAFormat(t *testing.T) {
	footer := make([]byte, 512)
	copy(footer, "conectix")
	binary.BigEndian.PutUint32(footer[12:], 0x10000)
	binary.BigEndian.PutUint64(footer[16:], 1<<64-1)
	binary.BigEndian.PutUint32(footer[60:], 2)
	const size = 1 << 20
	disk := func(parts map[int]string) []byte {
		b := make([]byte, size)
		for off, part := range parts {
			copy(b[off:], part)
		}
		return b
	}
	for _, c := range []struct {
		disk []byte
		want Format
	}{
		{nil, Format{}},
		{make([]byte, size), Format{}},
		{disk(map[int]string{0: "EFI PART"}), Format{}},
		{disk(map[int]string{512: "QFI\xfb"}), Format{}},
		{[]byte("QFI\xfb"), Format{"qcow2", "qcow2"}},
		{disk(map[int]string{0: "QFI\xfb"}), Format{"qcow2", "qcow2"}},
		{disk(map[int]string{0: "vhdxfile"}), Format{"VHDX", "VHDX"}},
		{disk(map[int]string{0: "# Disk DescriptorFile\n"}), Format{"VMDK", "VMDK descriptor"}},
		{disk(map[int]string{0: "KDMV"}), Format{"VMDK", ""}},
		{disk(map[int]string{0x40: "\x7f\x10\xda\xbe"}), Format{"VDI", ""}},
		{disk(map[int]string{0: "QED\x00"}), Format{"QED", ""}},
		{disk(map[int]string{0: string(footer)}), Format{"VHD", ""}},
		{disk(map[int]string{size - 512: "conectix"}), Format{"VHD", ""}},
		{disk(map[int]string{size - 512: string(footer)}), Format{"VHD", "fixed VHD"}},
		{disk(map[int]string{0: "KDMV", size - 512: string(footer)}), Format{"VMDK", "fixed VHD"}},
		{disk(map[int]string{0: "QFI\xfb", size - 512: string(footer)}), Format{"qcow2", "qcow2"}},
		{footer, Format{"VHD", "fixed VHD"}},
	} {
		if got, err := Of(bytes.NewReader(c.disk), int64(len(c.disk))); got != c.want || err != nil {
			t.Errorf("%d bytes, %.8q: %+v (%v), want %+v", len(c.disk), c.disk, got, err, c.want)
		}
	}
}
