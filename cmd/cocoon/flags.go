package main

import (
	"errors"
	"path"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store/document"
)

func listFlags(c *cobra.Command, o *listing.Options) {
	f := c.Flags()
	f.StringVar(&o.Format, "format", "table", "table, json or a Go template")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "print ids only")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "print full ids")
	listVar(f, &o.Filters, "filter", "`key=value`; the same key is OR, different keys are AND")
	f.StringVar(&o.Sort, "sort", "", "`key`, with a leading '-' descending")
}

// elements is a repeatable flag. A blank element is refused at once: it comes
// from an unset variable, and would match nothing.
type elements struct{ list *[]string }

func (e elements) String() string { return "" }
func (e elements) Type() string   { return "string" }

func (e elements) Set(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("it is empty")
	}
	*e.list = append(*e.list, s)
	return nil
}

// listVar adds such a flag.
func listVar(f *pflag.FlagSet, list *[]string, name, usage string) {
	f.Var(elements{list}, name, usage)
}

// reportFormat is the --format of commands that print one report rather than a
// list.
func reportFormat(c *cobra.Command, format *string) {
	c.Flags().StringVar(format, "format", "table", "table or json")
}

// checkReportFormat is called before anything is done.
func checkReportFormat(format string) error {
	if format != "table" && format != "json" {
		return failure.New(failure.Usage, "--format %q: table or json", format)
	}
	return nil
}

// short shortens an id for a table; a path becomes its last part.
func short(id string, full bool) string {
	folder, id := path.Split(strings.TrimPrefix(id, "sha256:"))
	if !full && len(id) > 12 {
		id = id[:12]
	}
	return folder + id
}

// parseLabels reads what a flag was given.
func parseLabels(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || !house.IsKey(k) {
			return nil, failure.New(failure.Usage, "%s %q is not key=value", flag, l)
		}
		out[k] = v
	}
	return out, document.CheckLabels(out)
}

func size(n int64) string { return units.BytesSize(float64(n)) }

func ago(t time.Time) string {
	if t.IsZero() { // of what is damaged
		return "unknown"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}
