package registry

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// unsafeError aborts a request that would send a password to a place that the
// user who named the registry did not intend.
type unsafeError struct{ registry, to string }

func (e *unsafeError) Error() string {
	return fmt.Sprintf("registry %s asks for the password at %s, which is not encrypted", e.registry, e.to)
}

// guarded is a transport that sends a password to the registry's own host, and
// elsewhere by https only. The registry is asked before anything sensitive is
// sent, so the realm it names is checked there.
type guarded struct {
	base     http.RoundTripper
	registry *url.URL
}

// realms are the token services that a challenge names.
var realms = regexp.MustCompile(`(?i)realm="?([^",]*)`)

// RoundTrip sends a request.
func (t guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if carriesPassword(req) && !t.trusted(req.URL) {
		return nil, &unsafeError{t.registry.Host, req.URL.Redacted()}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	for _, challenge := range resp.Header.Values("Www-Authenticate") {
		for _, m := range realms.FindAllStringSubmatch(challenge, -1) {
			u, err := url.Parse(m[1])
			if err == nil && u.Scheme == "http" && t.registry.Scheme == "https" {
				resp.Body.Close()
				return nil, &unsafeError{t.registry.Host, u.Redacted()}
			}
		}
	}
	return resp, nil
}

// trusted reports whether a password may go there.
func (t guarded) trusted(u *url.URL) bool {
	return u.Scheme == "https" || t.registry.Scheme == "http" && strings.EqualFold(u.Hostname(), t.registry.Hostname())
}

// carriesPassword: by the rules of Basic, or in the form that asks for a token.
func carriesPassword(req *http.Request) bool {
	kind, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return strings.EqualFold(kind, "Basic") ||
		req.Method == http.MethodPost && strings.HasPrefix(req.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}
