package house

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/private"
)

// Formats of an export.
const (
	OCIFormat = "oci" // an OCI image layout: a folder, FILE.tar or a stream
	CHFormat  = "ch"  // a folder that a bare VMM restores from
)

// ToStream is the name for an export to a stream.
const ToStream = "-"

// ExportFormat checks the output of an export, before anything is opened, and
// returns the format: the requested one, or for "" an archive if out is FILE.tar
// or a stream, else a folder for the VMM.
func (s Settings) ExportFormat(out, format string) (string, error) {
	if err := errors.Join(checkOutput(out), s.outsideFolders(out)); err != nil {
		return "", err
	}
	archive := out == ToStream || strings.HasSuffix(out, ".tar")
	switch {
	case format == "" && archive:
		return OCIFormat, nil
	case format == "":
		return CHFormat, nil
	case format != OCIFormat && format != CHFormat:
		return "", failure.New(failure.Usage, "%s %q: oci or ch", hint.Format, format)
	case format == CHFormat && archive:
		return "", failure.New(failure.Usage, "a Cloud Hypervisor snapshot is a folder: give -o DIR, or %s oci", hint.Format)
	}
	return format, nil
}

// Export writes a snapshot to a folder or FILE.tar that must not exist, or with
// ToStream to w.
func (h *House) Export(ctx context.Context, ref, out, format string, w io.Writer, t Transfer) error {
	format, err := h.o.Settings.ExportFormat(out, format)
	if err != nil {
		return err
	}
	if format == CHFormat {
		return h.Restorer.ExportCH(ctx, ref, out, t.OnBytes)
	}
	m, err := h.mover(t)
	if err != nil {
		return err
	}
	switch {
	case out == ToStream:
		_, err = m.ExportTar(ctx, ref, w, !t.WithoutImages)
	case strings.HasSuffix(out, ".tar"):
		_, err = m.ExportTarFile(ctx, ref, out, !t.WithoutImages)
	default:
		_, err = m.ExportDir(ctx, ref, out, !t.WithoutImages)
	}
	return err
}

// archives are suffixes that denote a file.
var archives = []string{".gz", ".tgz", ".zst", ".tzst", ".xz", ".txz", ".bz2", ".tbz", ".tbz2", ".lz4", ".zip", ".7z", ".tar"}

// checkOutput refuses to make a folder with the name of a file.
func checkOutput(out string) error {
	if out == "-" || strings.HasSuffix(out, ".tar") {
		return nil
	}
	for _, ending := range archives {
		if strings.HasSuffix(strings.ToLower(strings.TrimRight(out, "/")), ending) {
			return failure.Hint(failure.New(failure.Usage, "-o %s: an export is a folder, FILE.tar, or a tar stream on -", out),
				"packs are compressed already, so give -o FILE.tar; image disks gain from: "+hint.ToStream.Of()+" | zstd > FILE.tar.zst, which import reads")
		}
	}
	return nil
}

// outsideFolders refuses an export into the folders of cocoon: gc would treat it
// as a leftover, or nothing would ever remove it.
func (s Settings) outsideFolders(out string) error {
	if out == "-" {
		return nil
	}
	abs, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	at, err := Lies(Nearest(filepath.Dir(abs)))
	for _, name := range []string{"rootDir", "runDir"} {
		own, oerr := Lies(s.Of(name))
		if err = errors.Join(err, oerr); err == nil && strings.HasPrefix(at+"/", own+"/") {
			return failure.Hint(failure.New(failure.Usage, "-o %s is inside %s, %s of cocoon", out, own, name), "choose a place outside it")
		}
	}
	return err
}

// Nearest is the folder itself, or its nearest existing parent.
func Nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// Lies resolves a path as far as it exists.
func Lies(path string) (string, error) {
	if at, err := private.Resolve(path); err == nil {
		return at, nil
	}
	return filepath.Abs(path)
}
