// Package pagehash identifies pages: the SHA-256 of their bytes cut to 16.
//
// SHA-256 is limited by latency: each round waits for the one before, and half of
// a modern processor idles. So [Pair] hashes two pages of equal length side by
// side on processors with SHA instructions; elsewhere it makes two calls of
// crypto/sha256. Tests and fuzzing show that the results are the same;
// docs/adr/0005 has the figures.
package pagehash

import "crypto/sha256"

// Bytes is the length of a Sum.
const Bytes = 16

// Sum is the first 16 bytes of a SHA-256.
type Sum [Bytes]byte

// Of hashes one page.
func Of(page []byte) Sum {
	full := sha256.Sum256(page)
	return Sum(full[:Bytes])
}

// Pair hashes two pages of equal length.
func Pair(a, b []byte) (Sum, Sum) {
	if pairs && len(a) == len(b) {
		return pair(a, b)
	}
	return Of(a), Of(b)
}
