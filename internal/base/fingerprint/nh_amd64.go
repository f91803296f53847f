package fingerprint

import "golang.org/x/sys/cpu"

// nh is plainNH, using the processor's vector unit if it has one.
func nh(key *[keyWords]uint32, page *[PageBytes]byte) (sums [passes]uint64) {
	if !cpu.X86.HasAVX2 {
		return plainNH(key, page)
	}
	var lanes [passes][4]uint64
	vectorNH(key, page, &lanes)
	for i, l := range lanes {
		sums[i] = l[0] + l[1] + l[2] + l[3]
	}
	return sums
}

// vectorNH gives the sums of plainNH in four parts each: every fourth pair of
// words is of one lane. It needs AVX2.
//
//go:noescape
func vectorNH(key *[keyWords]uint32, page *[PageBytes]byte, lanes *[passes][4]uint64)
