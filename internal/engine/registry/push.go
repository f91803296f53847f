package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
)

// manifestLimit limits a fetched manifest, bytes: as for local ones. Registries
// refuse more than 4 MiB, which is about 17,000 blobs or a TiB of packs.
const manifestLimit = document.ManifestLimit

// Pushed says what a push or export moved.
type Pushed struct {
	Digest       string `json:"digest"` // of the snapshot's manifest
	Bytes        int64  `json:"bytes"`
	SentBytes    int64  `json:"sentBytes"` // what the other side did not have
	SkippedBytes int64  `json:"skippedBytes"`
}

// Push copies a snapshot to REGISTRY/NAME:TAG. What is already there is not sent
// again.
func (m *Mover) Push(ctx context.Context, ref, target string, withImages bool) (*Pushed, error) {
	repo, err := m.repository(target)
	if err != nil {
		return nil, err
	}
	if repo.Reference.Reference == "" || strings.Contains(repo.Reference.Reference, ":") {
		return nil, failure.New(failure.Usage, "push needs a tag: %s:TAG", target)
	}
	lease, err := m.Store.LeaseToRead(ctx, "snapshot push "+target)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	o, _, err := m.outgoing(ctx, lease, ref, withImages)
	if err != nil {
		return nil, err
	}
	out, err := m.send(ctx, o, repo)
	if err != nil {
		return nil, fmt.Errorf("push to %s: %w", target, classify(err))
	}
	return out, nil
}

// send copies the snapshot, then the bundle that refers to it, and last the tag:
// once the tag resolves, everything is there.
func (m *Mover) send(ctx context.Context, o *outgoing, repo *repository) (*Pushed, error) {
	out := &Pushed{Digest: string(o.snapshot.Digest), Bytes: o.total()}
	var sent, skipped atomic.Int64
	count := func(d ocispec.Descriptor, there bool) {
		if there {
			skipped.Add(d.Size)
		} else {
			sent.Add(d.Size)
		}
		if m.OnBytes != nil {
			m.OnBytes(sent.Load()+skipped.Load(), out.Bytes)
		}
	}
	if err := repo.sendGraph(ctx, o, o.snapshot, count); err != nil {
		return nil, err
	}
	if o.bundle != nil {
		if err := repo.sendGraph(ctx, o, *o.bundle, count); err != nil {
			return nil, err
		}
	}
	out.SentBytes = sent.Load()
	out.SkippedBytes = out.Bytes - out.SentBytes
	return out, repo.try(ctx, func() error {
		return repo.PushReference(ctx, o.snapshot, bytes.NewReader(o.inline[o.snapshot.Digest]), repo.Reference.Reference)
	})
}

// classify gives a registry's answer its failure class.
func classify(err error) error {
	var answer *errcode.ErrorResponse
	var unsafe *unsafeError
	var idle *idleError
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return failure.Wrap(failure.NotFound, err)
	case errors.Is(err, errdef.ErrTooManyPages), errors.Is(err, errdef.ErrSizeExceedsLimit):
		return failure.Wrap(failure.Damaged, err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound), errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return failure.Hint(err, "log in with docker login, podman login or oras login")
	case errors.As(err, &unsafe):
		return failure.Hint(failure.Wrap(failure.Incompatible, err), "have the registry name a token service with https; nothing was sent")
	case errors.As(err, &idle):
		return failure.Hint(err, "try again; or allow more with registryTimeout (COCOON_REGISTRY_TIMEOUT)")
	}
	return err
}
