//go:build !amd64

package pagehash

// pairs: this kind of processor cannot hash pairs.
const pairs = false

func pair(a, b []byte) (Sum, Sum) { return Of(a), Of(b) }
