package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// FuzzOpenIndex: whoever has the key could still have made a wrong index.
func FuzzOpenIndex(f *testing.F) {
	k := keyring.FromSecret([32]byte{7})
	keys := keyring.FromKeys(k)
	packed, err := os.ReadFile(filepath.Join("testdata", "v2.pack"))
	if err != nil {
		f.Fatal(err)
	}
	s, err := newSeal(k, [saltBytes]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	ix, err := ReadIndex(bytes.NewReader(packed), int64(len(packed)), keys)
	if err != nil {
		f.Fatal(err)
	}
	table := binary.LittleEndian.AppendUint32(nil, 1)
	table = ix.appendTables(binary.LittleEndian.AppendUint32(table, 4))
	f.Add(table, uint64(ix.Frames[0].Offset)+uint64(ix.Frames[0].Bytes))
	f.Fuzz(func(t *testing.T, table []byte, at uint64) {
		tail := binary.LittleEndian.AppendUint64(nil, at)
		tail = append(tail, s.key[:]...)
		tail = binary.LittleEndian.AppendUint32(tail, PageSize)
		tail = binary.LittleEndian.AppendUint32(tail, sealedVersion)
		b := append(s.index.Seal(bytes.Clone(s.salt[:]), nonce(0), table, tail), tail...)
		if at > 1<<20 {
			return // memory of the test
		}
		file := append(make([]byte, at), finishIndex(b)...)
		got, err := ReadIndex(bytes.NewReader(file), int64(len(file)), keys)
		if err != nil {
			if !errors.Is(err, failure.Damaged) {
				t.Fatal(err)
			}
			return
		}
		last := got.Frames[len(got.Frames)-1]
		if int(last.First+last.Pages) != len(got.Hashes) || last.Offset+int64(last.Bytes) != int64(at) {
			t.Errorf("index is not consistent: %+v of %d pages", last, len(got.Hashes))
		}
		for i := range got.Frames {
			if _, err := got.open(i, make([]byte, got.Frames[i].Bytes)); err == nil {
				t.Error("a frame of zeros was opened")
			}
		}
	})
}
