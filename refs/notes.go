package refs

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// Notes are what an index says without its rows.
type Notes struct {
	All      [][]byte // the last one last
	Appended int64    // bytes, since the file was made
}

// ReadNotes gives the notes of an owner's index, or an error as that of Open.
func ReadNotes(path, owner string) (n Notes, err error) {
	f, h, err := openIndex(path, owner, os.O_RDONLY)
	if err != nil {
		return n, err
	}
	defer f.Close()
	at := headerBytes + h.database
	b, err := io.ReadAll(io.NewSectionReader(f, at, Limit))
	if err != nil {
		return n, err
	}
	if n.All, err = parseNotes(b); err != nil {
		return Notes{}, damaged(path, err)
	}
	n.Appended = int64(len(b)) - h.notes
	return n, nil
}

// Append adds a note to an index of this owner; one that is not to be trusted, or is
// another program's, is left as it is.
func Append(path, owner string, note []byte) error {
	f, _, err := openIndex(path, owner, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(appendNote(nil, note))
	return err
}

func appendNote(b, note []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(note)))
	b = binary.LittleEndian.AppendUint32(b, checksum(note))
	return append(b, note...)
}

// parseNotes finds all notes whole: where one ends too soon, nobody knows what
// followed.
func parseNotes(b []byte) (notes [][]byte, err error) {
	for len(b) > 0 {
		if len(b) < noteBytes {
			return nil, errNote
		}
		n, sum := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if b = b[noteBytes:]; uint64(n) > uint64(len(b)) || checksum(b[:n]) != sum {
			return nil, errNote
		}
		notes, b = append(notes, b[:n]), b[n:]
	}
	return notes, nil
}

var errNote = errors.New("a note fails its checksum")
