package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// wireCommand is a command of the migration protocol, version 0. It is written
// down here again, not shared with the code under test: two hands that agree
// are worth more than one.
type wireCommand uint16

const (
	wireStart          wireCommand = 1
	wireConfig         wireCommand = 2
	wireState          wireCommand = 3
	wireMemory         wireCommand = 4
	wireComplete       wireCommand = 5
	wireAbandon        wireCommand = 6
	wireCompletePaused wireCommand = 8
)

func (c wireCommand) String() string {
	return map[wireCommand]string{
		wireStart: "Start", wireConfig: "Config", wireState: "State", wireMemory: "Memory",
		wireComplete: "Complete", wireCompletePaused: "Complete", wireAbandon: "Abandon",
	}[c]
}

const answerOK = 1

// writeCommand sends the 16 bytes of a request and its payload.
func writeCommand(w io.Writer, c wireCommand, payload []byte) error {
	head := binary.LittleEndian.AppendUint16(make([]byte, 0, 16+len(payload)), uint16(c))
	head = append(head, make([]byte, 6)...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(payload)))
	_, err := w.Write(append(head, payload...))
	return err
}

func encodeRanges(ranges []memoryRange) []byte {
	var b []byte
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.GPA)
		b = binary.LittleEndian.AppendUint64(b, r.Length)
	}
	return b
}

// readAnswer reads a response; any status but Ok aborts the migration.
func readAnswer(r io.Reader) error {
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if binary.LittleEndian.Uint16(b[:]) != answerOK {
		return errors.New("the receiver reported an error")
	}
	return nil
}
