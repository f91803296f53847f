package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// writeNoisyGuest makes a kernel that prints one line for ever, as fast as the
// VMM takes it: an ELF64 with a Xen PVH note, of 32-bit code that writes bytes to
// the first serial port.
func writeNoisyGuest(t *testing.T, path, line string) {
	t.Helper()
	const load, text = 0x200000, 0x1000
	code := []byte{
		0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx
		0xbe, 0, 0, 0, 0, // again: mov $line, %esi
		0xac,       // next: lodsb
		0x84, 0xc0, // test %al, %al
		0x74, 0xf6, // jz again
		0xee,       // out %al, %dx
		0xeb, 0xf8, // jmp next
	}
	le := binary.LittleEndian
	le.PutUint32(code[5:], load+uint32(len(code)))
	body := append(append(code, line...), 0)
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	note := len(body)
	for _, word := range []uint32{4, 4, 18, 0x006e6558, load} { // "Xen"
		body = le.AppendUint32(body, word)
	}
	var elf bytes.Buffer
	elf.Write([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	put := func(v any) { _ = binary.Write(&elf, le, v) } // into memory
	put([]uint16{2, 62})
	put(uint32(1))
	put([]uint64{load, 64, 0})
	put(uint32(0))
	put([]uint16{64, 56, 2, 64, 0, 0})
	segment := func(kind uint32, off, size int) {
		put([]uint32{kind, 7})
		put([]uint64{uint64(text + off), uint64(load + off), uint64(load + off), uint64(size), uint64(size), 0x1000})
	}
	segment(1, 0, len(body)) // PT_LOAD
	segment(4, note, 20)     // PT_NOTE
	elf.Write(make([]byte, text-elf.Len()))
	elf.Write(body)
	if err := os.WriteFile(path, elf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
