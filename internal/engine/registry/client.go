package registry

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// repository is a repository of a registry.
type repository struct {
	*remote.Repository
	*patience
	concurrency int
}

// Bounds of what a registry lists.
const (
	mostPages     = 16 // of tags, or of what refers to a manifest
	metadataBytes = 4 << 20
	headerBytes   = 256 << 10
)

// repository opens REGISTRY/NAME:TAG with the credentials that docker keeps.
func (m *Mover) repository(ref string) (*repository, error) {
	repo, err := remote.NewRepository(ref)
	if err != nil {
		return nil, failure.New(failure.Usage, "%q is no REGISTRY/NAME:TAG: %w", ref, err)
	}
	repo.PlainHTTP = m.PlainHTTP || loopback(repo.Reference.Host())
	repo.TagListMaxPages, repo.ReferrerListMaxPages, repo.MaxMetadataBytes = mostPages, mostPages, metadataBytes
	client := &auth.Client{Client: &http.Client{Transport: m.transport(repo)}, Cache: auth.NewCache()}
	client.SetUserAgent("cocoon")
	if keys, err := credentials.NewStoreFromDocker(credentials.StoreOptions{}); err == nil {
		client.Credential = credentials.Credential(keys)
	}
	repo.Client = client
	p := &patience{pause: sleep}
	if m.pause != nil {
		p.pause = m.pause
	}
	return &repository{repo, p, m.concurrency()}, nil
}

// transport handles every request: it guards passwords, turns temporary refusals
// into errors, and ends silence.
func (m *Mover) transport(repo *remote.Repository) http.RoundTripper {
	registry := &url.URL{Scheme: "https", Host: repo.Reference.Host()}
	if repo.PlainHTTP {
		registry.Scheme = "http"
	}
	m.once.Do(func() {
		if m.base != nil {
			return
		}
		m.base = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    30 * time.Second,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: headerBytes,
			DisableCompression:     true, // lengths and ranges are those of the blob
		}
	})
	return guarded{refusing{&watched{m.base, m.Idle}}, registry}
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || (ip != nil && ip.IsLoopback())
}
