//go:build !amd64

package pagehash

// pairs: there is no pair on this kind of processor.
const pairs = false

func pair(a, b []byte) (Sum, Sum) { return Of(a), Of(b) }
