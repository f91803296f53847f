package pack

// What tests of the format forge.
const (
	MapMagic      = mapMagic
	MapVersion    = mapVersion
	MaxMapWindow  = maxMapWindow
	PackTailBytes = packTailBytes
	TailSumAt     = tailSumAt
	TailMagicAt   = tailMagicAt
	PackMagic     = packMagic
	MapSumBytes   = mapSumBytes
	SealedVersion = sealedVersion
	MapKind       = mapKind
	SaltBytes     = saltBytes
	SealHeadBytes = sealHeadBytes
	BorderBytes   = borderBytes
)

// ZstdMagic begins a frame of a plain pack.
var ZstdMagic = zstdMagic

// Check holds a map to its invariants.
func (m *Map) Check() error { return m.check() }

// Open decrypts frame i.
func (ix *Index) Open(i int, stored []byte) ([]byte, error) { return ix.open(i, stored) }

// FramesNeeded counts the frames that reading the image decodes.
func (im *Image) FramesNeeded() (n int) {
	pl := im.plan()
	for f := range pl.packs {
		if pl.starts[f+1] > pl.starts[f] {
			n++
		}
	}
	return n
}

// Payload is what is compressed of a map.
func (m *Map) Payload() ([]byte, error) { return m.payload() }
