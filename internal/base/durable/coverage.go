package durable

import "os"

// Coverage is what a process of ours needs of our environment to count which of its
// statements ran, where it was built for that (go build -cover): "GOCOVERDIR=…",
// else nothing. Whoever gives a process an environment of its own begins with it.
// The answer is never nil, which would be all of ours.
func Coverage() []string {
	if dir, ok := os.LookupEnv("GOCOVERDIR"); ok {
		return []string{"GOCOVERDIR=" + dir}
	}
	return []string{}
}
