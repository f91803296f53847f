package sim

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// Where the guest keeps what it knows, all of it in RAM so that a restore brings
// everything back:
//
//	headerGPA   magic, counter, verify cursor, pattern pages in low and high RAM,
//	            network identity
//	versionGPA  one uint32 per pattern page: how often the page was dirtied
//	patternGPA  pattern pages, two of three filled, every third zero
//	highBase    a quarter of the pattern when the guest has RAM above 4 GiB
const (
	pageSize   = 4096
	headerGPA  = 0x7ff000
	versionGPA = 0x800000
	patternGPA = 0x1000000

	headerMagic  = "CHSIMRAM"
	wordsPerPage = 16
	wordStride   = pageSize / wordsPerPage
	checkPerTick = 32
	maxPages     = (patternGPA - versionGPA) / 4
)

// Offsets within the header page.
const (
	hdrCounter = 8 * (iota + 1)
	hdrCursor
	hdrLow
	hdrHigh
	hdrMAC // the network: see network.go
	hdrAddress
	hdrGateway
	hdrPort
	hdrGatewayMAC
)

// guest is the running program. mu is held for the whole of a tick, so whoever
// holds it sees the guest between two ticks.
type guest struct {
	mu      sync.Mutex
	ram     *ram
	disk    *disk // nil: no disk counter
	nic     nic
	serial  io.Writer
	paused  bool
	halted  bool // the program found no header and cannot go on
	powered bool // power button pressed, not yet seen
	onPower func()
	noise   string // printed at each tick, a hundred times
	stop    chan struct{}
	done    chan struct{}
}

// guestOptions is what differs between a cold boot and a restore.
type guestOptions struct {
	ram     *ram
	disk    *disk
	tap     *tap // nil: no network
	cmdline string
	mac     string // of the first network device
	serial  io.Writer
	tick    time.Duration
	fill    uint64 // bytes of pattern
	boot    bool   // fill RAM and start at 0; else continue from RAM, paused
	missing []string
	onPower func()
	noise   string
}

// noisePerTick is how often a noisy guest says its line each tick.
const noisePerTick = 100

// startGuest begins the guest's life. A restored guest starts paused.
func startGuest(o guestOptions) *guest {
	g := &guest{
		ram: o.ram, disk: o.disk, nic: nic{o.tap, make([]byte, frameLimit)}, serial: o.serial, onPower: o.onPower, noise: o.noise,
		paused: !o.boot, stop: make(chan struct{}), done: make(chan struct{}),
	}
	if o.boot {
		g.mu.Lock() // a pause right after boot waits until RAM is filled
	} else {
		g.checkDevices(o.missing)
	}
	go g.run(o)
	return g
}

func (g *guest) run(o guestOptions) {
	defer close(g.done)
	if o.boot {
		g.print("BOOT\n")
		g.fill(o.fill)
		if !g.halted {
			g.bootNIC(o.cmdline, o.mac)
		}
		g.print("FILLED\n")
		g.mu.Unlock()
	}
	ticker := time.NewTicker(o.tick)
	defer ticker.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-ticker.C:
			g.tick()
		}
	}
}

// end stops the guest for good; after it returns RAM may be unmapped.
func (g *guest) end() {
	close(g.stop)
	<-g.done
}

// pause returns when the guest can write nothing any more.
func (g *guest) pause() {
	g.mu.Lock()
	g.paused = true
	g.mu.Unlock()
}

func (g *guest) resume() {
	g.mu.Lock()
	g.paused = false
	g.mu.Unlock()
}

// pressPower is seen by the guest at its next tick.
func (g *guest) pressPower() {
	g.mu.Lock()
	g.powered = true
	g.mu.Unlock()
}

func (g *guest) print(format string, args ...any) {
	if g.noise != "" {
		return // it says that and nothing else
	}
	// A serial port has nowhere to report a full disk to; the guest goes on.
	_, _ = fmt.Fprintf(g.serial, format, args...)
}

// checkDevices reports devices that were restored without saved state: on real
// hardware their queues would be gone.
func (g *guest) checkDevices(missing []string) {
	for _, id := range missing {
		g.print("BAD device %s has no saved state\n", id)
	}
}

func (g *guest) word(offset uint64) []byte { return g.ram.at(headerGPA+offset, 8) }

func (g *guest) get(offset uint64) uint64 { return binary.LittleEndian.Uint64(g.word(offset)) }

func (g *guest) put(offset, v uint64) { binary.LittleEndian.PutUint64(g.word(offset), v) }

// fill writes the pattern and the header; the version table is zero in fresh
// RAM, and is cleared for a guest that boots again in the same memory.
func (g *guest) fill(bytes uint64) {
	low := g.room(patternGPA, lowTop)
	high := g.room(highBase, 1<<62)
	pages := min(bytes/pageSize, maxPages, low+high)
	highPages := min(pages/4, high)
	lowPages := min(pages-highPages, low)
	header := g.ram.at(headerGPA, pageSize)
	if header == nil {
		g.halted = true
		g.print("BAD header: less than 8 MiB of RAM\n")
		return
	}
	if !isZero(header) {
		g.print("BAD boot: RAM is not zero\n") // a guest may believe that it is
	}
	copy(header, headerMagic)
	g.put(hdrCounter, 0)
	g.put(hdrCursor, 0)
	g.put(hdrLow, lowPages)
	g.put(hdrHigh, highPages)
	for p := range lowPages + highPages {
		if p%3 != 2 {
			g.writePage(p, 0)
		}
	}
	if g.disk != nil {
		if err := g.disk.writeCounter(0); err != nil {
			g.print("BAD disk write: %v\n", err)
		}
	}
}

// room is the number of pages of RAM in [from, to) from address from on.
func (g *guest) room(from, to uint64) uint64 {
	for _, s := range g.ram.spans {
		if end := min(s.gpa+s.size, to); from >= s.gpa && from < end {
			return (end - from) / pageSize
		}
	}
	return 0
}

// page returns the memory of pattern page p.
func (g *guest) page(p uint64) []byte {
	if low := g.get(hdrLow); p >= low {
		return g.ram.at(highBase+(p-low)*pageSize, pageSize)
	}
	return g.ram.at(patternGPA+p*pageSize, pageSize)
}

func mix(x uint32) uint32 {
	x ^= x << 13
	x ^= x >> 17
	x ^= x << 5
	return x * 2654435761
}

func patternWord(page uint64, word, version uint32) uint32 {
	return mix(uint32(page)*wordsPerPage+word+1) + version
}

func (g *guest) writePage(p uint64, version uint32) {
	mem := g.page(p)
	for i := range uint32(wordsPerPage) {
		binary.LittleEndian.PutUint32(mem[i*wordStride:], patternWord(p, i, version))
	}
	slot := g.ram.at(versionGPA+p*4, 4)
	if binary.LittleEndian.Uint32(slot) != version {
		binary.LittleEndian.PutUint32(slot, version)
	}
}

// checkPage says whether page p holds what the guest wrote last.
func (g *guest) checkPage(p uint64) bool {
	mem := g.page(p)
	if p%3 == 2 {
		return isZero(mem)
	}
	version := binary.LittleEndian.Uint32(g.ram.at(versionGPA+p*4, 4))
	for i := range uint32(wordsPerPage) {
		if binary.LittleEndian.Uint32(mem[i*wordStride:]) != patternWord(p, i, version) {
			return false
		}
	}
	return true
}

// tick is one turn of the program: answer the network, verify some pages, dirty
// one, count, write the counter to disk, send it, print.
func (g *guest) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused || g.halted {
		return
	}
	if g.powered && g.onPower != nil {
		g.halted = true
		g.print("power off\n")
		go g.onPower()
		return
	}
	if header := g.ram.at(headerGPA, 8); header == nil || string(header) != headerMagic {
		g.halted = true
		g.print("BAD header: RAM does not hold a simulated guest\n")
		return
	}
	for range noisePerTick {
		if g.noise == "" {
			break
		}
		_, _ = fmt.Fprintln(g.serial, g.noise)
	}
	g.serveNet()
	g.verify()
	counter := g.get(hdrCounter)
	onDisk := g.countDisk(counter)
	counter++
	g.dirty(counter)
	g.put(hdrCounter, counter)
	g.beat(counter)
	g.print("tick %08x %08x\n", uint32(counter), uint32(onDisk))
}

// verify checks the next few pages of the pattern.
func (g *guest) verify() {
	pages, cursor := g.get(hdrLow)+g.get(hdrHigh), g.get(hdrCursor)
	if pages == 0 {
		return
	}
	for range checkPerTick {
		p := cursor % pages
		cursor++
		if !g.checkPage(p) {
			g.print("BAD page %08x\n", p)
		}
	}
	g.put(hdrCursor, cursor)
}

// dirty changes one filled page chosen by the counter.
func (g *guest) dirty(counter uint64) {
	pages := g.get(hdrLow) + g.get(hdrHigh)
	if pages < 3 {
		return
	}
	p := uint64(mix(uint32(counter))) % (pages / 3) * 3
	version := binary.LittleEndian.Uint32(g.ram.at(versionGPA+p*4, 4))
	g.writePage(p, version+1)
}

// countDisk checks that the disk stands where RAM stands and moves it on. It
// returns the new disk counter, 0 without a disk.
func (g *guest) countDisk(counter uint64) uint64 {
	if g.disk == nil {
		return 0
	}
	onDisk, ok, err := g.disk.readCounter()
	switch {
	case err != nil:
		g.print("BAD disk read: %v\n", err)
	case !ok:
		g.print("BAD disk: no counter in sector 1, RAM %08x\n", uint32(counter))
	case onDisk != counter:
		g.print("BAD disk %08x RAM %08x\n", uint32(onDisk), uint32(counter))
	}
	if err := g.disk.writeCounter(counter + 1); err != nil {
		g.print("BAD disk write: %v\n", err)
	}
	return counter + 1
}
