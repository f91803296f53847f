package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// FuzzRules: a rule that is given is refused or does something. One that came to
// nothing would have prune keep what it should not, or remove what it should.
func FuzzRules(f *testing.F) {
	flags := []string{
		"keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly", "max",
		"keep-within", "max-store-size", "group-by",
	}
	for i, value := range []string{"7", "1", "-1", "+3", "0", "1e3", "99999999999999999999", "36h", "512M", "label:env"} {
		f.Add(byte(i), value, "hold\nwhy=release")
	}
	f.Add(byte(7), "1e-30d", "")
	f.Add(byte(7), "2w", "")
	f.Add(byte(8), "0.1", "")
	f.Fuzz(func(t *testing.T, which byte, value, labels string) {
		chosen := flags[int(which)%len(flags)]
		get := func(flag string) house.Rule {
			switch {
			case flag == chosen:
				return house.Rule{Name: "--" + flag, Value: value, Given: true}
			case flag == "group-by":
				return house.Rule{Name: "--" + flag, Value: "vm", Given: true}
			}
			return house.Rule{Name: "--" + flag}
		}
		list := strings.FieldsFunc(labels, func(r rune) bool { return r == '\n' })
		r, err := house.ParseRules(get, list)
		if err != nil {
			if !errors.Is(err, failure.Usage) || strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("%q: no usage error of one line", err)
			}
			return
		}
		counts := r.Last + r.Hourly + r.Daily + r.Weekly + r.Monthly + r.Yearly + r.MaxPerVM
		if chosen != "group-by" && counts <= 0 && r.Within <= 0 && r.MaxBytes <= 0 {
			t.Errorf("--%s %q came to nothing: %+v", chosen, value, r)
		}
		for _, l := range r.Labels {
			if !house.IsKey(l.Key) {
				t.Errorf("label %q matches nothing", l)
			}
		}
		if len(r.Labels) != len(list) {
			t.Errorf("%d of %d labels", len(r.Labels), len(list))
		}
	})
}
