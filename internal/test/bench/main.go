// Command bench prints the whole-command figures of docs/benchmarks.md: what a
// person at a shell waits for, against what they would type without cocoon.
//
//	go run ./internal/test/bench -cocoon bin/cocoon [-bytes 2147483648] [-runs 3] [-dir DIR]
//	go run ./internal/test/bench -cocoon bin/cocoon -peers [-restic PROGRAM] [-images A.raw,B.raw]
//	go run ./internal/test/bench -cocoon bin/cocoon -curves docs/curves
//	go run ./internal/test/bench -cocoon bin/cocoon -encrypted
//	go run ./internal/test/bench -cocoon bin/cocoon -captures [-hard]
//	go run ./internal/test/bench -cocoon bin/cocoon -listing [-snapshots 10000]
//	go run ./internal/test/bench -cocoon bin/cocoon -collecting [-snapshots 10000] [-blobs 1000000]
//
// Words: a figure is one row of a table, what cocoon takes beside a yardstick; a
// yardstick is what somebody else's program takes for the same job; a series is
// the runs of one command.
//
// Each kind of figures has its file: captures.go (RAM there and back), parts.go
// (what others' code takes for the parts of it), family.go, encrypted.go,
// commands.go (many small snapshots), collect.go (gc of a large store),
// network.go, peers.go with peertools.go, curves.go with chart.go. All of them
// run programs by timed (timing.go) and print by row.
//
// What always holds:
//
//  1. A figure is the median of runs that alternate with their yardstick, both on
//     the same two processors, each begun when the disk is done with what the one
//     before wrote. Seconds mean nothing on another machine, the ratios do.
//  2. Whole commands are timed, with their start and every fsync.
//  3. No run is a test: a slow day fails nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

func main() {
	cocoon := flag.String("cocoon", "bin/cocoon", "the program")
	bytes := flag.Int64("bytes", 2<<30, "size of the guest RAM images")
	runs := flag.Int("runs", 3, "runs of each figure")
	dir := flag.String("dir", "", "where the store and the images lie (default: the temporary folder)")
	snapshots := flag.Int("snapshots", 10000, "snapshots of the listing and the collecting figures")
	blobs := flag.Int("blobs", 1000000, "blobs of the collecting figures")
	peers := flag.Bool("peers", false, "compare with restic, borg, casync and zstd instead")
	restic := flag.String("restic", "restic", "the restic program (with -peers)")
	images := flag.String("images", "", "two raw files, an earlier and a later state, instead of generated ones (with -peers)")
	curves := flag.String("curves", "", "draw cost against RAM, snapshots and generations into this folder instead")
	encrypted := flag.Bool("encrypted", false, "only what encryption costs")
	hard := flag.Bool("hard", false, "guest RAM that compresses worse than that of Linux guests")
	captures := flag.Bool("captures", false, "only captures and exports")
	collecting := flag.Bool("collecting", false, "only gc of a large store")
	listing := flag.Bool("listing", false, "only lists, gc and captures beside many small snapshots")
	flag.Parse()
	work, err := os.MkdirTemp(*dir, "cocoon-bench-")
	if err == nil {
		defer os.RemoveAll(work)
		b := &bench{cocoon: *cocoon, bytes: *bytes, runs: *runs, work: work, snapshots: *snapshots, blobs: *blobs, ram: ramgen.New}
		if *hard {
			b.ram = ramgen.NewHard
		}
		switch {
		case *peers:
			err = b.peers(*restic, *images)
		case *captures:
			err = header(b.captures)
		case *encrypted:
			err = header(b.encrypted)
		case *collecting:
			err = header(b.collecting)
		case *listing:
			err = header(b.listing)
		case *curves != "":
			err = b.curves(*curves)
		default:
			err = run(b)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.RemoveAll(work)
		os.Exit(1)
	}
}

// bench is one session of measuring.
type bench struct {
	cocoon    string
	bytes     int64
	runs      int
	work      string
	snapshots int
	blobs     int
	ram       func(bytes int64, seed uint64) *ramgen.Image // makes guest RAM
}

func run(b *bench) error {
	if networktest.Isolated() { // the second life, which network starts
		return b.attachments()
	}
	return header(b.captures, b.encrypted, b.family, b.startup, b.listing, b.collecting, b.network)
}

// header begins a table and has its rows printed.
func header(all ...func() error) error {
	fmt.Printf("machine: %s, %d processors (each command runs on two of them), %s\n\n", cpuModel(), runtime.NumCPU(), runtime.Version())
	fmt.Println("| figure | cocoon | yardstick | ratio | goal |")
	fmt.Println("|---|---|---|---|---|")
	for _, figures := range all {
		if err := figures(); err != nil {
			return err
		}
	}
	return nil
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t:\n")
		}
	}
	return "unknown processor"
}

// row prints one line of the table.
func row(figure, ours, theirs, ratio, goal string) {
	fmt.Printf("| %s | %s | %s | %s | %s |\n", figure, ours, theirs, ratio, goal)
}
