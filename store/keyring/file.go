package keyring

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// A key file is text. Lines that are empty or begin with # are skipped; the one
// that is left is
//
//	cocoon-key-1 ID SECRET
//
// both in hexadecimal. The ID follows from the secret, so a key that was copied
// by hand is known to be copied right.
const (
	fileMagic = "cocoon-key-1"
	fileLimit = 4096
)

// Create makes a key and its file, which must not exist. The file is durable
// when Create returns.
func Create(path string) (*Key, error) {
	var secret [secretBytes]byte
	if _, err := io.ReadFull(rand.Reader, secret[:]); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	k := FromSecret(secret)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, failure.New(failure.Conflict, "%s exists already: a key is never overwritten", path)
	}
	if err != nil {
		return nil, failure.New(failure.Usage, "make key file: %w", err)
	}
	_, err = f.Write(k.file())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("write key file %s: %w", path, err), os.Remove(path))
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("write key file %s: %w", path, err)
	}
	return k, nil
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (k *Key) file() []byte {
	return fmt.Appendf(nil, "# Key of cocoon snapshots. Keep a copy where the store is not: without it they are lost.\n%s %s %s\n",
		fileMagic, k.id, hex.EncodeToString(k.secret[:]))
}

// Load reads a key file. One that is missing, that others may read or that is
// no key is failure.Usage, with the remedy.
func Load(path string) (*Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure.Hint(failure.New(failure.Usage, "read key file: %w", err), hint.CreateKey.Of(path)+" makes one; what is encrypted already needs the old one")
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, failure.New(failure.Usage, "read key file: %w", err)
	}
	if err := private(path, fi); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, fileLimit))
	if err != nil {
		return nil, failure.New(failure.Usage, "read key file: %w", err)
	}
	k, err := parse(string(b))
	if err != nil {
		return nil, failure.New(failure.Usage, "key file %s: %w", path, err)
	}
	return k, nil
}

// private refuses what others could read or change.
func private(path string, fi os.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return failure.New(failure.Usage, "key file %s is not a regular file", path)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return failure.Hint(failure.New(failure.Usage, "key file %s belongs to user %d", path, st.Uid), "chown root "+path)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return failure.Hint(failure.New(failure.Usage, "key file %s may be read by others (%s)", path, fi.Mode().Perm()), "chmod 600 "+path)
	}
	if fi.Size() >= fileLimit {
		return failure.New(failure.Usage, "key file %s has %d bytes", path, fi.Size())
	}
	return nil
}

// parse reads the text of a key file; its errors name nothing that it holds.
func parse(text string) (*Key, error) {
	var found *Key
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != fileMagic {
			return nil, errors.New("it is no key file of cocoon")
		}
		secret, err := hex.DecodeString(words[2])
		if err != nil || len(secret) != secretBytes {
			return nil, errors.New("its key is not whole")
		}
		if found != nil {
			return nil, errors.New("it holds two keys; name two files instead")
		}
		found = FromSecret([secretBytes]byte(secret))
		if found.id.String() != words[1] {
			return nil, errors.New("its key does not fit its id: a character was changed")
		}
	}
	if found == nil {
		return nil, errors.New("it holds no key")
	}
	return found, nil
}
