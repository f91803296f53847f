// Package parallel does many small things of one kind on all processors: the files
// of a million snapshots are read so.
package parallel

import (
	"runtime"

	"golang.org/x/sync/errgroup"
)

// Each calls do for 0 … n-1, in slices on every processor, and gives the first error
// there was. The rest of its slice is left out then.
func Each(n int, do func(i int) error) error {
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
