package durable

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
)

func TestStrayTellsTheDeadFromTheLiving(t *testing.T) {
	dir := t.TempDir()
	living, err := newTemporary(filepath.Join(dir, "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := Stray(living.Name()); f != nil || err != nil {
		t.Errorf("of a living writer: %v, %v", f, err)
	}
	living.Close() // it died
	f, err := Stray(living.Name())
	if f == nil || err != nil {
		t.Fatalf("of a dead writer: %v, %v", f, err)
	}
	if again, err := Stray(living.Name()); again != nil || err != nil {
		t.Errorf("for a second collector: %v, %v", again, err)
	}
	f.Close()
	other := filepath.Join(dir, "record.json")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Stray(other); f != nil || err != nil {
		t.Errorf("of another kind: %v, %v", f, err)
	}
}

// TestWritersDoNotNoticeCollectors that take away every stray file which they
// can get hold of, at any moment.
func TestWritersDoNotNoticeCollectors(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var collectors, writers errgroup.Group
	for range 2 {
		collectors.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				found, err := filepath.Glob(filepath.Join(dir, temporaryPrefix+"*"))
				if err != nil {
					return err
				}
				for _, path := range found {
					if f, _ := Stray(path); f != nil { // gone meanwhile is no matter
						os.Remove(path)
						f.Close()
					}
				}
			}
		})
	}
	for i := range 3 {
		writers.Go(func() error {
			for range 100 {
				if err := writeFile(filepath.Join(dir, []string{"a", "b"}[i%2]), []byte("x"), 0o600); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := collectors.Wait(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, temporaryPrefix+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
