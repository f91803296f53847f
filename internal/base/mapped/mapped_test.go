package mapped

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestAFaultIsAnErrorAndOtherPanicsGoOn(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 16
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	data, err := Open(f, 0, size)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(data)
	last := func() error {
		if data[size-1] != 0 {
			return errors.New("a hole is not zero")
		}
		return nil
	}
	if err := Guard(last); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := Guard(last); err == nil {
		t.Error("no error behind the end of the file")
	}
	want := errors.New("mine")
	if err := Guard(func() error { return want }); err != want {
		t.Errorf("%v instead of the function's own error", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a panic that is no fault was swallowed")
		}
	}()
	_ = Guard(func() error { panic("mine") })
}
