package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// roleMemory begins a further connection, which carries RAM.
const roleMemory = 1

const answerError = 2

// request is one migration request with its payload; a Memory payload is the
// table alone, its bytes follow on the connection.
type request struct {
	command wireCommand
	version uint16
	payload []byte
}

var errUnknownCommand = errors.New("unknown command")

// payloadLimit bounds what a peer may make us allocate.
const payloadLimit = 64 << 20

func readRequest(r io.Reader) (request, error) {
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return request{}, err
	}
	q := request{command: wireCommand(binary.LittleEndian.Uint16(b[:])), version: binary.LittleEndian.Uint16(b[2:])}
	n := binary.LittleEndian.Uint64(b[8:])
	if q.command < wireStart || q.command > wireCompletePaused+1 {
		return q, errUnknownCommand
	}
	if n > payloadLimit {
		return q, fmt.Errorf("%s with %d bytes", q.command, n)
	}
	q.payload = make([]byte, n)
	_, err := io.ReadFull(r, q.payload)
	return q, err
}

// ranges reads a Memory payload.
func (q request) ranges() []memoryRange {
	list := make([]memoryRange, 0, len(q.payload)/16)
	for b := q.payload; len(b) >= 16; b = b[16:] {
		list = append(list, memoryRange{GPA: binary.LittleEndian.Uint64(b), Length: binary.LittleEndian.Uint64(b[8:])})
	}
	return list
}

func writeAnswer(w io.Writer, ok bool) error {
	var b [16]byte
	binary.LittleEndian.PutUint16(b[:], answerOK)
	if !ok {
		binary.LittleEndian.PutUint16(b[:], answerError)
	}
	_, err := w.Write(b[:])
	return err
}

func readRole(r io.Reader) (uint16, error) {
	var b [2]byte
	_, err := io.ReadFull(r, b[:])
	return binary.LittleEndian.Uint16(b[:]), err
}

func readBytes(r io.Reader, into []byte) error {
	_, err := io.ReadFull(r, into)
	return err
}
