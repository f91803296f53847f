package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

func newSnapshotTag(a *app) *cobra.Command {
	var add, remove []string
	c := &cobra.Command{
		Use: "tag SNAPSHOT…", Short: "Add and remove labels", Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			labels, err := parseLabels("--add", add)
			if err != nil {
				return err
			}
			if len(labels)+len(remove) == 0 {
				return failure.New(failure.Usage, "tag needs --add key=value or --remove key")
			}
			for _, k := range remove {
				if strings.Contains(k, "=") {
					return failure.New(failure.Usage, "--remove %q is not a key", k)
				}
			}
			return each(args, func(ref string) error {
				return a.changeMeta(c.Context(), ref, func(m *store.Meta) error { relabel(m, labels, remove); return nil })
			})
		},
	}
	listVar(c.Flags(), &add, "add", "`key=value`, repeatable; replaces the key's value")
	listVar(c.Flags(), &remove, "remove", "`key`, repeatable; a missing one is no error")
	return c
}

// relabel removes first, so that a key given to both has the added value.
func relabel(m *store.Meta, add map[string]string, remove []string) {
	for _, k := range remove {
		delete(m.Labels, k)
	}
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	for k, v := range add {
		m.Labels[k] = v
	}
}
