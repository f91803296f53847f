package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
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
	f.String("group-by", "vm", "what the keep rules look at one at a time: vm, label:`KEY` or none")
	f.Int("max", 0, "at most `N` unprotected snapshots of each VM")
	f.String("max-store-size", "", "remove the least valuable until the snapshots' blobs fit `SIZE`")
}

func unitFlag(unit string) string {
	if unit == "day" {
		return "keep-daily"
	}
	return "keep-" + unit + "ly"
}

// rule is one as the operator wrote it; name is what he knows it by.
type rule struct {
	name, value string
	given       bool
}

// givenRules reads a policy from the flags of c. The cap of the store holds here
// too where it is no flag: it is one setting, whichever way it is given.
func (a *app) givenRules(c *cobra.Command, labels []string) (policy.Rules, error) {
	return parseRules(func(flag string) rule {
		f := c.Flags().Lookup(flag)
		if flag == "max-store-size" && !f.Changed {
			return a.rule("maxStoreSize")
		}
		return rule{"--" + flag, f.Value.String(), f.Changed || flag == "group-by"}
	}, labels)
}

// rule is that of a setting, which is given where it is not empty.
func (a *app) rule(key string) rule { return rule{key, a.set(key), a.set(key) != ""} }

// configuredRules reads the policy of the configuration, which may be empty.
func (a *app) configuredRules() (policy.Rules, error) {
	key := func(flag string) string {
		words := strings.Split(flag, "-")
		for i, w := range words[1:] {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
		return "prune." + strings.Join(words, "")
	}
	return parseRules(func(flag string) rule {
		r := a.rule(key(flag))
		if flag == "max-store-size" && !r.given {
			return a.rule("maxStoreSize") // what is refused when it is full is also what prune aims at
		}
		return r
	}, a.config[key("keep-label")].List)
}

// parseRules makes rules of text. One that is given and empty is refused: without
// it more would go.
func parseRules(get func(flag string) rule, labels []string) (policy.Rules, error) {
	var r policy.Rules
	for flag, n := range map[string]*int{
		"keep-last": &r.Last, "keep-hourly": &r.Hourly, "keep-daily": &r.Daily, "keep-weekly": &r.Weekly,
		"keep-monthly": &r.Monthly, "keep-yearly": &r.Yearly, "max": &r.MaxPerVM,
	} {
		given := get(flag)
		if !given.given {
			continue
		}
		var err error
		if *n, err = strconv.Atoi(given.value); err != nil || *n < 1 {
			return r, failure.New(failure.Usage, "%s %q: a number of at least 1", given.name, given.value)
		}
	}
	var err error
	if w := get("keep-within"); w.given {
		if r.Within, err = config.ParseDuration(w.name, w.value); err != nil {
			return r, err
		}
	}
	if m := get("max-store-size"); m.given {
		if r.MaxBytes, err = config.ParseSize(m.name, m.value); err != nil {
			return r, err
		}
	}
	for _, text := range labels {
		l, err := wantedLabel(get("keep-label").name, text)
		if err != nil {
			return r, err
		}
		r.Labels = append(r.Labels, l)
	}
	if len(labels) > 0 && !r.Removes() {
		return r, failure.New(failure.Usage, "%s alone removes nothing: it spares snapshots from other rules", get("keep-label").name)
	}
	by := get("group-by")
	r.GroupBy, err = parseGroup(by.name, by.value)
	return r, err
}

func parseGroup(name, value string) (policy.Group, error) {
	label, isLabel := strings.CutPrefix(value, "label:")
	switch {
	case value == "vm":
		return policy.Group{}, nil
	case value == "none":
		return policy.Group{All: true}, nil
	case isLabel && label != "":
		return policy.Group{Label: label}, nil
	}
	return policy.Group{}, failure.New(failure.Usage, "%s %q: vm, label:KEY or none", name, value)
}
