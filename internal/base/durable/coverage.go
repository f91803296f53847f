package durable

import "os"

// Coverage is the part of our environment that a child process needs to count
// which statements it ran, if it was built for that (go build -cover):
// "GOCOVERDIR=…", else nothing. Every environment built for a child starts with
// it. The result is never nil, since a nil environment would inherit all of ours.
func Coverage() []string {
	if dir, ok := os.LookupEnv("GOCOVERDIR"); ok {
		return []string{"GOCOVERDIR=" + dir}
	}
	return []string{}
}
