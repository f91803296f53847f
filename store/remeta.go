package store

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/document"
)

// RemakeMeta gives a snapshot whose meta.json cannot be read another one, and says
// with what. The index may still know what it said when it was listed
// last: its labels, description and expiry; its name has a link. Whether it was protected since
// they do not know, so it is protected.
func (s *Store) RemakeMeta(ctx context.Context, id ID, dryRun bool) (how string, err error) {
	err = s.Names().Lock(ctx, func() error {
		m := s.lastKnown(id)
		if m.Name != "" {
			if holder, err := s.Names().Holder(m.Name); err != nil || holder != "" {
				m.Name = "" // somebody else has it by now
			}
		}
		m.Protected = true
		how = "made again without its name and labels; it is protected until snapshot unprotect"
		if m.Name != "" || len(m.Labels) > 0 {
			how = "made again as it was listed last, with name " + strconv.Quote(m.Name) + " and " + strconv.Itoa(len(m.Labels)) + " labels; it is protected until snapshot unprotect"
		}
		if dryRun {
			return nil
		}
		return s.writeMeta(id, m)
	})
	return how, err
}

// writeMeta takes the name, which is free, and writes the file; names.lock is held.
func (s *Store) writeMeta(id ID, m Meta) error {
	b, err := m.Encode()
	if err == nil {
		err = s.Names().Take(id, m.Name)
	}
	if err != nil {
		return err
	}
	path := s.Path("snapshots", string(id), "meta.json")
	if err := notFile(path); err != nil {
		return err
	}
	return document.MetaFile.Write(path, b, 0o600)
}

// notFile removes what is no file and has no contents, such as a link. A folder
// that is not empty stays, and is failure.Damaged.
func notFile(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && fi.Mode().IsRegular() {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, unix.ENOTEMPTY) {
		return failure.New(failure.Damaged, "%s is a folder that is not empty; see what is in it, then: rm -r %s", path, path)
	}
	return err
}

// lastKnown is what is said elsewhere of a snapshot's meta.json, the newest that
// there is: its name by the link that leads here, the rest by the index.
func (s *Store) lastKnown(id ID) (m Meta) {
	if was, ok := s.Index().Known(id); ok {
		m = Meta{Name: was.Name, Description: was.Description, Labels: was.Labels, Expires: was.Expires}
	}
	if name := s.Names().ByLink(id, m.Name); name != "" || s.Names().Whole() { // a link goes with its name
		m.Name = name
	}
	if m.Name != "" && spelling.CheckSnapshotName(m.Name) != nil {
		m.Name = ""
	}
	m.Origin = &Origin{Lost: true, At: time.Now().UTC()}
	return m
}
