package main

import (
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// ruleFlags adds the flags of a retention policy.
func ruleFlags(c *cobra.Command, labels *[]string) {
	f := c.Flags()
	f.Int("keep-last", 0, "keep the newest `N` of each group")
	for _, unit := range []string{"hour", "day", "week", "month", "year"} {
		f.Int(unitFlag(unit), 0, "keep the newest snapshot of each of the last `N` "+unit+"s that have one (UTC)")
	}
	f.String("keep-within", "", "keep those made within this `duration` before the newest of the group")
	listVar(f, labels, "keep-label", "keep those with `key[=value]`, repeatable")
	f.String("group-by", "vm", "form groups for the keep rules: vm, label:`KEY` or none")
	f.Int("max", 0, "at most `N` unprotected snapshots of each VM")
	f.String("max-store-size", "", "remove the least valuable until the snapshots' blobs fit `SIZE`")
}

func unitFlag(unit string) string {
	if unit == "day" {
		return "keep-daily"
	}
	return "keep-" + unit + "ly"
}

// givenRules reads a policy from the flags of c. Without the flag, the cap of the
// store applies: it is one setting, wherever it is given.
func (a *app) givenRules(c *cobra.Command, labels []string) (policy.Rules, error) {
	return house.ParseRules(func(flag string) house.Rule {
		f := c.Flags().Lookup(flag)
		if flag == "max-store-size" && !f.Changed {
			return a.config.Rule("maxStoreSize")
		}
		return house.Rule{Name: "--" + flag, Value: f.Value.String(), Given: f.Changed || flag == "group-by"}
	}, labels)
}
