package fingerprint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
)

// SecretFile is the file below the run folder that keys are derived from.
const SecretFile = "fingerprints.key"

var secretFile = durable.Document{Name: SecretFile, Limit: SecretBytes}

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// Load returns the key of this boot of the host, the same to every process that
// has this run folder. The first one makes the secret, 0600. If the run folder
// survives a reboot the key does not: the boot id is its salt.
func Load(ctx context.Context, runDir string) (*Key, error) {
	boot, err := os.ReadFile(bootIDPath)
	if err != nil {
		return nil, fmt.Errorf("load fingerprint key: %w", err)
	}
	secret, err := secretOf(ctx, runDir)
	if err != nil {
		return nil, fmt.Errorf("load fingerprint key: %w", err)
	}
	return New(secret, strings.TrimSpace(string(boot)))
}

// secretOf reads the secret, or makes it. A file that is too short was left
// unfinished by a process that died.
func secretOf(ctx context.Context, runDir string) (secret [SecretBytes]byte, err error) {
	path := filepath.Join(runDir, SecretFile)
	if b, err := secretFile.Read(path); err == nil && len(b) == SecretBytes {
		return [SecretBytes]byte(b), nil
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return secret, err
	}
	lock, err := filelock.Exclusive(ctx, path)
	if err != nil {
		return secret, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	n, err := lock.File().ReadAt(secret[:], 0)
	if n == SecretBytes {
		return secret, nil
	}
	if err != io.EOF {
		return secret, err
	}
	rand.Read(secret[:]) // never fails
	_, err = lock.File().WriteAt(secret[:], 0)
	return secret, err
}
