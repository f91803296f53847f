package chsnap

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap/migration"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestOptionsThatLackSomethingAreRefused(t *testing.T) {
	nobody := NewClient(filepath.Join(t.TempDir(), "no.sock"), 0)
	capture := func(o CaptureOptions) error { _, err := Capture(t.Context(), o); return err }
	live := func(o LiveOptions) error { _, err := CaptureLive(t.Context(), o); return err }
	listen := func(path string, within time.Duration) error {
		r, err := migration.Listen(path, within)
		if err == nil {
			r.Close()
		}
		return err
	}
	push := func(p migration.Pusher) error { return p.Push(t.Context(), nil, nil, nil) }
	guard := func(o GuardOptions) error { _, err := StartGuard(o); return err }
	for what, err := range map[string]error{
		"a capture":                     capture(CaptureOptions{}),
		"a capture without client":      capture(CaptureOptions{StagingDir: t.TempDir()}),
		"a capture to nowhere":          capture(CaptureOptions{Client: nobody}),
		"a live capture":                live(LiveOptions{}),
		"a live capture of no RAM":      live(LiveOptions{Client: nobody, Socket: filepath.Join(t.TempDir(), "s")}),
		"a recorder without a name":     listen("", time.Second),
		"a recorder without a time":     listen(filepath.Join(t.TempDir(), "s"), 0),
		"a pusher":                      push(migration.Pusher{}),
		"a pusher without a time":       push(migration.Pusher{Socket: nobody.Socket()}),
		"a guard of a VMM without name": guard(GuardOptions{Command: GuardCommand{Argv: []string{"/bin/true"}}}),
	} {
		if !errors.Is(err, failure.Usage) {
			t.Errorf("%s: %v, want Usage", what, err)
		}
	}
}
