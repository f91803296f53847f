package chsnap

import (
	"regexp"
	"strconv"
	"strings"
)

// Version says which Cloud Hypervisor a VMM is, in its two own words. A release
// says the same in both; one that was built from git between two releases has the
// package's version of the next.
type Version struct {
	Package string // what vmm.ping answers, "54.0.0": compatibility goes by it
	Build   string // where git was, "v53.0-246-gae44c2971": what --version prints
}

// String names a VMM by both words where they differ.
func (v Version) String() string {
	if v.Build == "" || strings.HasPrefix(strings.TrimPrefix(v.Build, "v"), strings.TrimSuffix(v.Package, ".0")) {
		return v.Package
	}
	return v.Package + " (" + v.Build + ")"
}

// Major is the first number of a version such as "53.0.0" or "v53.0-12".
func Major(version string) int {
	m, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	n, err := strconv.Atoi(m)
	if err != nil {
		return 0
	}
	return n
}

// Passage says by which ways a VMM takes what another has saved.
type Passage int

const (
	NoWay       Passage = iota // not at all, as far as is promised
	ByMigration                // as the end of a migration: stream
	AnyWay
)

// Cloud Hypervisor promises from v54 on that it takes migrations from the two
// major versions before, and never from a later one. Snapshot folders it promises
// for the same major version only, at every version.
const (
	windowFrom = 54
	windowWide = 2
)

// Takes says by which ways this VMM takes what was saved by one of the package
// version made, "" when that is not known.
func (v Version) Takes(made string) Passage {
	here, there := Major(v.Package), Major(made)
	switch {
	case made == "" || here == there:
		return AnyWay
	case here >= windowFrom && there < here && there >= here-windowWide:
		return ByMigration
	}
	return NoWay
}

// between is a build that git places between two releases.
var between = regexp.MustCompile(`^v[0-9.]+-[0-9]+-g[0-9a-f]+`)

// release is a build that is a release, perhaps with a word more of whoever
// packed it.
var release = regexp.MustCompile(`^v([0-9]+(\.[0-9]+){0,2})(-[^0-9].*)?$`)

// packageOf is the package's version of a build, "" when only the VMM itself can
// tell.
func packageOf(build string) string {
	m := release.FindStringSubmatch(build)
	if m == nil || between.MatchString(build) {
		return ""
	}
	for strings.Count(m[1], ".") < 2 {
		m[1] += ".0"
	}
	return m[1]
}
