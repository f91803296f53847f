package house

import (
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Rule is a retention rule as text; Name is the flag or key it came from.
type Rule struct {
	Name, Value string
	Given       bool
}

// Rule is the rule of a setting, which counts as given if it is not empty.
func (s Settings) Rule(key string) Rule { return Rule{key, s.Of(key), s.Of(key) != ""} }

// PruneRules reads the policy of the configuration, which may be empty.
func (s Settings) PruneRules() (policy.Rules, error) {
	key := func(flag string) string {
		words := strings.Split(flag, "-")
		for i, w := range words[1:] {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
		return "prune." + strings.Join(words, "")
	}
	return ParseRules(func(flag string) Rule {
		r := s.Rule(key(flag))
		if flag == "max-store-size" && !r.Given {
			return s.Rule("maxStoreSize") // what is refused when it is full is also what prune aims at
		}
		return r
	}, s[key("keep-label")].List)
}

// ParseRules parses rules. An empty one is refused: without it more snapshots
// would go.
func ParseRules(get func(flag string) Rule, labels []string) (policy.Rules, error) {
	var r policy.Rules
	for flag, n := range map[string]*int{
		"keep-last": &r.Last, "keep-hourly": &r.Hourly, "keep-daily": &r.Daily, "keep-weekly": &r.Weekly,
		"keep-monthly": &r.Monthly, "keep-yearly": &r.Yearly, "max": &r.MaxPerVM,
	} {
		given := get(flag)
		if !given.Given {
			continue
		}
		var err error
		if *n, err = strconv.Atoi(given.Value); err != nil || *n < 1 {
			return r, failure.New(failure.Usage, "%s %q: a number of at least 1", given.Name, given.Value)
		}
	}
	var err error
	if w := get("keep-within"); w.Given {
		if r.Within, err = config.ParseDuration(w.Name, w.Value); err != nil {
			return r, err
		}
	}
	if m := get("max-store-size"); m.Given {
		if r.MaxBytes, err = config.ParseSize(m.Name, m.Value); err != nil {
			return r, err
		}
	}
	for _, text := range labels {
		l, err := ParseLabel(get("keep-label").Name, text)
		if err != nil {
			return r, err
		}
		r.Labels = append(r.Labels, l)
	}
	if len(labels) > 0 && !r.Removes() {
		return r, failure.New(failure.Usage, "%s alone removes nothing: it spares snapshots from other rules", get("keep-label").Name)
	}
	by := get("group-by")
	r.GroupBy, err = parseGroup(by.Name, by.Value)
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

// IsKey: of a label. A surrounding blank is a mistake, and would make another
// key.
func IsKey(k string) bool { return k != "" && k == strings.TrimSpace(k) }

// ParseLabel reads key[=value]; with Any every value matches.
func ParseLabel(name, s string) (policy.Label, error) {
	k, v, exact := strings.Cut(s, "=")
	if !IsKey(k) {
		return policy.Label{}, failure.New(failure.Usage, "%s %q is not key or key=value", name, s)
	}
	return policy.Label{Key: k, Value: v, Any: !exact}, nil
}
