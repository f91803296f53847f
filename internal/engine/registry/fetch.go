package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// manifestTypes are what a tag may lead to; all but the first are told to be no
// snapshot.
var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
}, ", ")

// get asks for one thing of the repository: "manifests" or "blobs", and which.
func (r *repository) get(ctx context.Context, kind, reference string, header map[string]string) (*http.Response, error) {
	scheme := "https"
	if r.PlainHTTP {
		scheme = "http"
	}
	ctx = auth.AppendRepositoryScope(ctx, r.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/%s/%s/%s", scheme, r.Reference.Host(), r.Reference.Repository, kind, reference), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := r.Client.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, nil
	case http.StatusNotFound:
		err = fmt.Errorf("%s: %w", reference, errdef.ErrNotFound)
	default:
		err = answerError(resp)
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// answerError is what a registry says of a request that failed.
func answerError(resp *http.Response) error {
	e := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 8<<10)).Decode(&body) == nil {
		e.Errors = body.Errors
	}
	return e
}

// manifest fetches the manifest of a tag or digest; its bytes are of the digest
// that is answered.
func (r *repository) manifest(ctx context.Context, reference string) (d ocispec.Descriptor, b []byte, err error) {
	err = r.try(ctx, func() error {
		d, b, err = r.manifestOnce(ctx, reference)
		return err
	})
	return d, b, err
}

func (r *repository) manifestOnce(ctx context.Context, reference string) (ocispec.Descriptor, []byte, error) {
	var d ocispec.Descriptor
	if strings.Contains(reference, ":") && !strings.HasPrefix(reference, "sha256:") {
		return d, nil, failure.New(failure.Incompatible, "%s: digests are SHA-256 here", reference)
	}
	resp, err := r.get(ctx, "manifests", reference, map[string]string{"Accept": manifestTypes})
	if err != nil {
		return d, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength > manifestLimit {
		return d, nil, failure.New(failure.Damaged, "manifest %s: answer %d of %d bytes", reference, resp.StatusCode, resp.ContentLength)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, manifestLimit+1))
	if err != nil {
		return d, nil, fmt.Errorf("manifest %s: %w", reference, err)
	}
	if len(b) > manifestLimit {
		return d, nil, failure.New(failure.Damaged, "manifest %s has more than %d bytes", reference, manifestLimit)
	}
	d = ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	for _, says := range []string{resp.Header.Get("Docker-Content-Digest"), reference} {
		if strings.HasPrefix(says, "sha256:") && says != string(d.Digest) {
			return d, nil, failure.New(failure.Damaged, "manifest %s came with digest %s", says, d.Digest)
		}
	}
	d.MediaType, _, err = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return d, nil, failure.New(failure.Damaged, "manifest %s: its media type: %w", reference, err)
	}
	return d, b, nil
}

// Fetch opens a blob. If its body is interrupted it resumes from there.
func (r *repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	body := &resumed{ctx: ctx, repo: r, blob: d}
	return body, r.try(ctx, body.open)
}

// resumed is the body of a blob.
type resumed struct {
	ctx  context.Context
	repo *repository
	blob ocispec.Descriptor

	body     io.ReadCloser // nil: to be opened from at on
	at       int64         // bytes that were read
	opened   int64         // at, when body was opened
	whole    bool          // the registry has no ranges
	failures int
}

// progressBytes of a body make its next failure the first one.
const progressBytes = 256 << 10

// open asks for what is missing. A registry that gives all of it again is read
// past what is here.
func (b *resumed) open() error {
	var header map[string]string
	if b.at > 0 && !b.whole {
		header = map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", b.at, b.blob.Size-1)}
	}
	resp, err := b.repo.get(b.ctx, "blobs", string(b.blob.Digest), header)
	if answer := (*errcode.ErrorResponse)(nil); errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable && header != nil {
		b.whole = true
		return b.open()
	}
	if err != nil {
		return err
	}
	from := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		from, err = rangeStart(resp.Header.Get("Content-Range"))
	}
	if n := resp.ContentLength; err == nil && (from > b.at || n >= 0 && n != b.blob.Size-from) {
		err = failure.New(failure.Damaged, "blob %s of %d bytes: the registry answers with %d from byte %d on", b.blob.Digest, b.blob.Size, n, from)
	}
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, b.at-from)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("blob %s: %w", b.blob.Digest, err), resp.Body.Close())
	}
	b.body, b.opened = resp.Body, b.at
	return nil
}

// rangeStart reads "bytes 5-9/10".
func rangeStart(v string) (int64, error) {
	first, _, _ := strings.Cut(strings.TrimPrefix(v, "bytes "), "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil || n < 0 {
		return 0, failure.New(failure.Damaged, "the registry answers with range %q", v)
	}
	return n, nil
}

// Read reads on, wherever the bytes come from.
func (b *resumed) Read(p []byte) (int, error) {
	for {
		n, err := b.once(p)
		if b.at-b.opened >= progressBytes {
			b.failures = 0
		}
		if n > 0 || err == nil || err == io.EOF {
			return n, err
		}
		b.Close()
		if err := b.repo.after(b.ctx, err, &b.failures); err != nil {
			return 0, fmt.Errorf("blob %s, after %d bytes: %w", b.blob.Digest, b.at, err)
		}
	}
}

func (b *resumed) once(p []byte) (int, error) {
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p)
	b.at += int64(n)
	switch {
	case err == io.EOF && b.at < b.blob.Size:
		err = io.ErrUnexpectedEOF
	case err != nil && b.at == b.blob.Size:
		err = io.EOF // a cut behind the last byte
	}
	if n > 0 && err != io.EOF {
		err = nil // it comes again
	}
	return n, err
}

// Close ends the exchange.
func (b *resumed) Close() error {
	if b.body == nil {
		return nil
	}
	body := b.body
	b.body = nil
	return body.Close()
}

// bundlesLimit limits how many manifests that refer to a snapshot are examined.
const bundlesLimit = 64

// Bundles fetches manifests that refer to root, first those that declare
// themselves bundles of images.
func (r *repository) Bundles(ctx context.Context, root ocispec.Descriptor) ([][]byte, error) {
	var ours, others []ocispec.Descriptor
	err := r.try(ctx, func() error {
		ours, others = nil, nil
		return r.Referrers(ctx, root, "", func(ds []ocispec.Descriptor) error {
			for _, d := range ds {
				if d.ArtifactType == ArtifactTypeImages {
					ours = append(ours, d)
				} else if d.MediaType == ocispec.MediaTypeImageManifest {
					others = append(others, d)
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	all := append(ours, others...)
	var out [][]byte
	for _, d := range all[:min(len(all), bundlesLimit)] {
		_, b, err := r.manifest(ctx, string(d.Digest))
		if errors.Is(err, errdef.ErrNotFound) {
			continue // removed since, or never there
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
