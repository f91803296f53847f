package chsnap

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// knownFields of config.json either name nothing of the host or are rewritten.
// Whatever else is set is refused, also what a later VMM invents: devices, files
// and sockets of this host would be opened for whoever made the snapshot.
var knownFields = []string{
	"cpus", "memory", "payload", "rate_limit_groups", "disks", "net", "rng", "balloon", "serial", "console", "debug_console",
	"vsock", "pvpanic", "iommu", "numa", "watchdog", "gdb", "pci_segments", "platform", "landlock_enable",
}

// onlyKnown refuses an object with other fields, unless they say nothing.
func onlyKnown(b []byte, object string, known []string) error {
	all, err := members(b)
	if err != nil {
		return err
	}
	for _, m := range all {
		value := b[m.start:m.end]
		if !slices.Contains(known, m.key) && !isEmptyJSON(value) && !bytes.Equal(value, []byte("false")) {
			return failure.New(failure.Incompatible, "%s: %.40q may name things of this host", object, m.key)
		}
	}
	return nil
}

// exactKeys refuses an object anywhere in b with a key that is not spelt as the
// VMM spells its own, in lower case. Go takes a key for a field whatever its
// case, the VMM does not: "SRC" behind "src" would be what is judged here, and
// "src" what is opened.
func exactKeys(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var objects []bool // what is open, outermost first: an object, or an array
	isKey := false     // what the next token is
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failure.New(failure.Damaged, "JSON: %w", err)
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				objects = append(objects, t == '{')
			} else {
				objects = objects[:len(objects)-1]
			}
		case string:
			if isKey && strings.ContainsFunc(t, func(r rune) bool { return unicode.IsUpper(r) || r > unicode.MaxASCII }) {
				return failure.New(failure.Incompatible, "config: %.40q is not how the VMM spells a key, and may hide another", t)
			}
			if isKey {
				isKey = false
				continue
			}
		}
		isKey = len(objects) > 0 && objects[len(objects)-1]
	}
}

// diskFormat is how the VMM reads a disk's file.
type diskFormat struct {
	Readonly     bool   `json:"readonly"`
	ImageType    string `json:"image_type"`
	BackingFiles bool   `json:"backing_files"`
}

// hold keeps the VMM from taking what stands in a disk for the name of another
// file: a guest writes its own disk, and could write the header of a qcow2 whose
// backing file is any file of this host. So writable disks are raw and said to
// be, and backing files are never read.
func (f diskFormat) hold(disk []byte, id string) ([]byte, error) {
	if f.BackingFiles {
		return nil, failure.New(failure.Incompatible, "disk %q reads backing files of this host", id)
	}
	if f.Readonly || f.ImageType == "Raw" {
		return disk, nil
	}
	if f.ImageType != "" && f.ImageType != "Unknown" {
		return nil, failure.New(failure.Incompatible, "disk %q is writable and %s; only raw ones are", id, f.ImageType)
	}
	return set(disk, "image_type", "Raw")
}
