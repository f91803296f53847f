package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// manifestLimit bounds a manifest that is fetched, bytes: as one here. Registries refuse
// larger ones than 4 MiB, which is about 17,000 blobs or a TiB of packs.
const manifestLimit = store.ManifestLimit

// Pushed says what a push or export moved.
type Pushed struct {
	Digest       string `json:"digest"` // of the snapshot's manifest
	Bytes        int64  `json:"bytes"`
	SentBytes    int64  `json:"sentBytes"` // what the other side did not have
	SkippedBytes int64  `json:"skippedBytes"`
}

// Push copies a snapshot to REGISTRY/NAME:TAG. What is there already is not
// sent again.
func (m *Mover) Push(ctx context.Context, ref, target string, withImages bool) (*Pushed, error) {
	repo, err := m.repository(target)
	if err != nil {
		return nil, err
	}
	if repo.Reference.Reference == "" || strings.Contains(repo.Reference.Reference, ":") {
		return nil, failure.New(failure.Usage, "push needs a tag: %s:TAG", target)
	}
	lease, err := m.Store.Lease(ctx, "snapshot push "+target)
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

// send copies the snapshot, then the bundle that refers to it, and last the
// tag: who resolves the tag finds all of it.
func (m *Mover) send(ctx context.Context, o *outgoing, repo *remote.Repository) (*Pushed, error) {
	out := &Pushed{Digest: string(o.snapshot.Digest), Bytes: o.total()}
	var sent, skipped atomic.Int64
	count := func(n *atomic.Int64) func(context.Context, ocispec.Descriptor) error {
		return func(_ context.Context, d ocispec.Descriptor) error {
			n.Add(d.Size)
			if m.OnBytes != nil {
				m.OnBytes(sent.Load()+skipped.Load(), out.Bytes)
			}
			return nil
		}
	}
	opts := oras.CopyGraphOptions{
		Concurrency: m.concurrency(), MaxMetadataBytes: manifestLimit, FindSuccessors: belowOnly,
		PostCopy: count(&sent), OnCopySkipped: count(&skipped),
	}
	if err := oras.CopyGraph(ctx, o, repo, o.snapshot, opts); err != nil {
		return nil, err
	}
	if o.bundle != nil {
		if err := oras.CopyGraph(ctx, o, repo, *o.bundle, opts); err != nil {
			return nil, err
		}
	}
	// A graph whose root was there is skipped by one look at the root.
	out.SentBytes = sent.Load()
	out.SkippedBytes = out.Bytes - out.SentBytes
	return out, repo.Tag(ctx, o.snapshot, repo.Reference.Reference)
}

// belowOnly follows config and layers, never the subject: a bundle is copied
// after the snapshot that it refers to.
func belowOnly(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	all, err := content.Successors(ctx, f, d)
	if err != nil {
		return nil, err
	}
	below := all[:0]
	for _, s := range all {
		if s.MediaType != ocispec.MediaTypeImageManifest {
			below = append(below, s)
		}
	}
	return below, nil
}

// Fetch makes outgoing a content.ReadOnlyStorage.
func (o *outgoing) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return o.open(ctx, d.Digest)
}

// Exists makes outgoing a content.ReadOnlyStorage.
func (o *outgoing) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	for _, l := range o.layers {
		if l.Digest == d.Digest {
			return true, nil
		}
	}
	_, ok := o.inline[d.Digest]
	return ok, nil
}

// repository opens REGISTRY/NAME:TAG with the credentials that docker keeps.
func (m *Mover) repository(ref string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(ref)
	if err != nil {
		return nil, failure.New(failure.Usage, "%q is no REGISTRY/NAME:TAG: %w", ref, err)
	}
	client := &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache()}
	client.SetUserAgent("cocoon")
	if keys, err := credentials.NewStoreFromDocker(credentials.StoreOptions{}); err == nil {
		client.Credential = credentials.Credential(keys)
	}
	repo.Client = client
	repo.PlainHTTP = m.PlainHTTP || loopback(repo.Reference.Host())
	return repo, nil
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || (ip != nil && ip.IsLoopback())
}

// classify gives a registry's answer its failure class.
func classify(err error) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return failure.Wrap(failure.NotFound, err)
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return failure.Hint(err, "log in with docker login, podman login or oras login")
	}
	return err
}
