//go:build !amd64

package fingerprint

func nh(key *[keyWords]uint32, page *[PageBytes]byte) [passes]uint64 { return plainNH(key, page) }
