package guest

import (
	"bytes"
	"fmt"
	"testing"
)

// FuzzLastTick: a guest writes what it likes on its serial port. The counters are
// those of a whole line, and there is none behind it.
func FuzzLastTick(f *testing.F) {
	f.Add([]byte("BOOT\r\ntick 0000002a 00000001\r\ntick 0000002b 0000"))
	f.Add([]byte("tick 0000002a 00000001\nBAD\n"))
	f.Fuzz(func(t *testing.T, serial []byte) {
		ram, disk, ok := LastTick(serial)
		var want string
		for line := range bytes.Lines(serial) {
			if _, _, is := ParseTick(string(line)); is && line[len(line)-1] == '\n' {
				want = string(bytes.ToLower(bytes.Join(bytes.Fields(line), []byte(" "))))
			}
		}
		if got := fmt.Sprintf("tick %08x %08x", ram, disk); ok != (want != "") || ok && got != want {
			t.Errorf("%q, %v, want %q", got, ok, want)
		}
		Bad(serial)
		if beat, address, ok := ParseBeat(serial); ok && !bytes.EqualFold(serial, fmt.Appendf(nil, "beat %08x %x", beat, address.As4())) {
			t.Errorf("beat %x %s of %q", beat, address, serial)
		}
	})
}
