package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/failure"
)

// ruleFlags adds the flags of a retention policy.
func ruleFlags(c *cobra.Command) {
	f := c.Flags()
	f.Int("keep-last", 0, "keep the newest `N` of each group")
	for _, unit := range []string{"hour", "day", "week", "month", "year"} {
		f.Int(unitFlag(unit), 0, "keep the newest snapshot of each of the last `N` "+unit+"s that have one (UTC)")
	}
	f.String("keep-within", "", "keep those made within this `duration` before the newest of the group")
	f.StringArray("keep-label", nil, "keep those with `key[=value]`, repeatable")
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

// givenRules reads a policy from the flags of c.
func givenRules(c *cobra.Command) (policy.Rules, error) {
	labels, err := c.Flags().GetStringArray("keep-label")
	if err != nil {
		return policy.Rules{}, err
	}
	return parseRules(func(flag string) (name, value string) {
		f := c.Flags().Lookup(flag)
		if !f.Changed && flag != "group-by" {
			return "--" + flag, ""
		}
		return "--" + flag, f.Value.String()
	}, labels)
}

// configuredRules reads the policy of the configuration, which may be empty.
func (a *app) configuredRules() (policy.Rules, error) {
	key := func(flag string) string {
		words := strings.Split(flag, "-")
		for i, w := range words[1:] {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
		return "prune." + strings.Join(words, "")
	}
	labels := strings.FieldsFunc(a.set(key("keep-label")), func(r rune) bool { return r == ',' })
	return parseRules(func(flag string) (name, value string) {
		if flag == "max-store-size" && a.set(key(flag)) == "" {
			return "maxStoreSize", a.set("maxStoreSize") // what is refused when it is full is also what prune aims at
		}
		return key(flag), a.set(key(flag))
	}, labels)
}

// parseRules makes rules of text; get answers the name by which the operator
// knows a rule, and its value, "" where it is not given.
func parseRules(get func(flag string) (name, value string), labels []string) (policy.Rules, error) {
	var r policy.Rules
	for flag, n := range map[string]*int{
		"keep-last": &r.Last, "keep-hourly": &r.Hourly, "keep-daily": &r.Daily, "keep-weekly": &r.Weekly,
		"keep-monthly": &r.Monthly, "keep-yearly": &r.Yearly, "max": &r.MaxPerVM,
	} {
		name, value := get(flag)
		if value == "" {
			continue
		}
		var err error
		if *n, err = strconv.Atoi(value); err != nil || *n < 1 {
			return r, failure.New(failure.Usage, "%s %q: a number of at least 1", name, value)
		}
	}
	var err error
	if name, value := get("keep-within"); value != "" {
		if r.Within, err = parseDuration(name, value); err != nil {
			return r, err
		}
	}
	if name, value := get("max-store-size"); value != "" {
		if r.MaxBytes, err = parseSize(name, value); err != nil {
			return r, err
		}
	}
	for _, l := range labels {
		k, v, exact := strings.Cut(l, "=")
		r.Labels = append(r.Labels, policy.Label{Key: k, Value: v, Any: !exact})
	}
	if name, _ := get("keep-label"); len(labels) > 0 && !r.Removes() {
		return r, failure.New(failure.Usage, "%s alone removes nothing: it spares snapshots from other rules", name)
	}
	r.GroupBy, err = parseGroup(get("group-by"))
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
