package house

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// ProtocolVerb is the hidden command by which a program reports which hidden
// verbs it has: it prints Protocol in a line.
const ProtocolVerb = "__protocol"

// Protocol identifies the hidden verbs of this version, their arguments and what
// is said over their descriptors. It changes with any of them.
const Protocol = "cocoon processes 1"

// FindProgram finds the cocoon binary for another program: at path, or on PATH if
// path is "". A missing one is failure.NotFound, one of another version
// failure.Incompatible: better now than when a guest is paused.
func FindProgram(ctx context.Context, path string) (string, error) {
	name := path
	if name == "" {
		name = "cocoon"
	}
	found, err := exec.LookPath(name)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return "", failure.Hint(failure.New(failure.NotFound, "no cocoon binary, which runs the keepers and guards of VMs: %w", err),
			"install it on PATH, or name it in Options.Program")
	}
	cmd := exec.CommandContext(ctx, found, ProtocolVerb)
	cmd.Env = durable.Coverage()
	said, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil && string(bytes.TrimSpace(said)) == Protocol:
		return found, nil
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", fmt.Errorf("start %s: %w", found, err)
	}
	line, _, _ := strings.Cut(string(said), "\n")
	return "", failure.Hint(failure.New(failure.Incompatible, "%s is not the cocoon of this version: its processes speak %q, not %q", found, line, Protocol),
		"build the binary and this program from the same version")
}
