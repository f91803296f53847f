package ramgen

import "encoding/binary"

var hard = content{
	shares: []share{{text, 25}, {pointers, 25}, {code, 15}, {records, 17}, {noise, 8}, {shared, 10}},
	run:    1,
	fill:   fillHard,
}

// words are what text pages are made of, in pieces of 2 to 11 bytes.
const words = "the error of file page kernel return value static struct int char open read write lock unlock queue device memory buffer " +
	"process thread signal network socket packet address cache block inode mount user group root config option default server client"

func fillHard(k kind, p []byte, s *splitmix) {
	le := binary.LittleEndian
	switch k {
	case text, shared:
		for at := 0; at < len(p); {
			r := s.next()
			start := int(r % uint64(len(words)-12))
			at += copy(p[at:], words[start:start+2+int(r>>32%10)])
		}
	case pointers:
		for at := 0; at < len(p); at += 8 {
			r := s.next()
			switch r % 4 {
			case 0:
				le.PutUint64(p[at:], 0)
			case 1:
				le.PutUint64(p[at:], r>>8%256)
			default:
				le.PutUint64(p[at:], 0xffff888000000000|r>>20&0x3ffffff8)
			}
		}
	case code:
		for at := 0; at < len(p); at += 4 {
			r := s.next()
			le.PutUint32(p[at:], uint32(0x8b480000|r%16<<8|r>>8&0xff&uint64(-int64(r>>60&1))))
			p[at+3] = byte(r >> 16 & 0x3f)
		}
	case records:
		fillRecords(p, s)
	case noise:
		fillNoise(p, s)
	}
}

func fillRecords(p []byte, s *splitmix) {
	le := binary.LittleEndian
	base := s.next()
	for at := 0; at < len(p); at += 64 {
		clear(p[at : at+64])
		le.PutUint64(p[at:], base+uint64(at))
		le.PutUint32(p[at+16:], uint32(s.next()))
		le.PutUint64(p[at+32:], 0xffffffff81000000|s.next()&0xffff)
	}
}

func fillNoise(p []byte, s *splitmix) {
	for at := 0; at < len(p); at += 8 {
		binary.LittleEndian.PutUint64(p[at:], s.next())
	}
}
