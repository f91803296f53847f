package capture

import (
	"context"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

func addDone(done *int64, n int64) int64 { return atomic.AddInt64(done, n) }

// putMap stores the page map of an image.
func (src *source) putMap(ctx context.Context, iw *packer.ImageWriter) (digest.Digest, error) {
	d, err := src.ingest.PutImage(ctx, iw)
	if err == nil {
		src.prints.Mapped(iw, d.Digest)
	}
	return d.Digest, err
}

// putConfig stores config.json and state.json as the VMM wrote them, without what
// belonged to the source process alone.
func (src *source) putConfig(ctx context.Context, sp *store.Spec) error {
	c, err := src.ingest.Put(ctx, store.MediaTypeCHConfig, src.dir.Config.Bytes())
	if err != nil {
		return err
	}
	s, err := src.ingest.Put(ctx, store.MediaTypeCHState, src.dir.State.Bytes())
	if err != nil {
		return err
	}
	sp.CHConfig, sp.CHState = c.Digest, s.Digest
	return nil
}

// allocated is how many bytes a file occupies; 0 if unknown.
func allocated(path string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// hostFacts reads what a restore elsewhere compares.
func hostFacts(vmmBuild string) store.Host {
	h := store.Host{VMMBuild: vmmBuild}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	cpu := hostfacts.CPU()
	h.CPUModel, h.CPUFlags = cpu.Model, cpu.Flags
	return h
}
