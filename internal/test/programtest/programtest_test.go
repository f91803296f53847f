package programtest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TestAProgramStartsAsSoonAsItIsWritten, whatever else is started meanwhile.
func TestAProgramStartsAsSoonAsItIsWritten(t *testing.T) {
	dir := t.TempDir()
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 50 {
				path := filepath.Join(dir, fmt.Sprintf("%d-%d", w, i))
				if err := Write(path, []byte("#!/bin/sh\nexit 0\n")); err != nil {
					t.Error(err)
					return
				}
				if out, err := exec.Command(path).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
	writers.Wait()
}
