package ramgen

import (
	"encoding/binary"
	"math/bits"
)

// linux is what the pages of a Linux guest hold. Each kind compresses about as
// well as the real thing was seen to, and takes about as long (zstd -1): programs
// and libraries to 0.40, sources and other text to 0.19 to 0.27, heaps to between 0.05
// and 0.25. All that is not zero comes to 0.34, like that of guests of 2 GiB.
var linux = content{
	shares: []share{{text, 16}, {code, 28}, {pointers, 26}, {records, 16}, {noise, 6}, {shared, 8}},
	run:    32,
	fill: func(k kind, p []byte, s *splitmix) {
		switch k {
		case text:
			source.fill(p, s)
		case code, shared:
			program.fill(p, s)
		case pointers:
			fillHeap(p, s)
		case records:
			fillRecords(p, s)
		case noise:
			fillNoise(p, s)
		}
	},
}

// prose is bytes that repeat themselves nearby, as text and programs do: tokens
// are copied from further up in the page, or are words that the whole image has,
// or new.
type prose struct {
	copied, known uint64 // of 64 tokens
	longest       uint64 // bytes of a copy beyond the shortest
	words         [][]byte
	letter        func(r uint64) byte
}

var (
	source  = newProse(prose{copied: 34, known: 20, longest: 36, letter: func(r uint64) byte { return "etaoinshrdlu_ce(.=m, p"[r%22] }})
	program = newProse(prose{copied: 32, known: 15, longest: 20, letter: func(r uint64) byte { return byte(r)&byte(r>>8) | byte(r>>16)&0x48 }})
)

const (
	shortestCopy = 4
	vocabulary   = 4096 // words
)

func newProse(d prose) *prose {
	s := &splitmix{d.longest}
	for range vocabulary {
		word := make([]byte, 4+s.next()%12)
		for i := range word {
			word[i] = d.letter(s.next())
		}
		d.words = append(d.words, word)
	}
	return &d
}

func (d *prose) fill(p []byte, s *splitmix) {
	for at := 0; at < len(p); {
		r := s.next()
		switch token := r % 64; {
		case token < d.copied && at > 64:
			back := 8 + min(r>>8%uint64(at-8), r>>24%uint64(at-8))
			n := min(back, shortestCopy+r>>40%d.longest)
			at += copy(p[at:], p[at-int(back):at-int(back)+int(n)])
		case token < d.copied+d.known:
			at += copy(p[at:], d.words[r>>8%vocabulary])
		default:
			for n := 2 + r>>8%5; n > 0 && at < len(p); n, at = n-1, at+1 {
				p[at] = d.letter(s.next())
			}
		}
	}
}

// fillHeap writes objects of one type: words that are the same in each, addresses
// of neighbours, lengths and flags, much of it zero.
func fillHeap(p []byte, s *splitmix) {
	r := s.next()
	words := 4 + int(r%21)
	layout := r >> 8
	for at := 0; at < len(p); at += 8 {
		field := at / 8 % words
		var v uint64
		switch x := s.next(); bits.RotateLeft64(layout, field*5) % 16 {
		case 0, 1: // another object
			v = 0xffff888000000000 | layout>>20&0x3f000000 | x&0xfffff0
		case 2, 3:
			v = x % 200
		case 4, 5: // a type, a function, a list's head
			v = 0xffffffff81000000 | layout>>uint(field)&0xfffff8
		case 6:
			v = x & (x >> 8) & 0xffffffff
		}
		binary.LittleEndian.PutUint64(p[at:], v)
	}
}
