#include "textflag.h"

// PASSES adds 32 bytes of the page, in Y4, to the lanes of the four passes. The
// key is at offset AT: each pass begins 8 bytes later. A pair of words is the low
// and the high half of 64 bits: both are added to the key's at once, the high half
// is shifted down, and their product is 64 bits again.
#define PASSES(AT) \
	VPADDD   AT+0(DI), Y4, Y5   \
	VPADDD   AT+8(DI), Y4, Y6   \
	VPADDD   AT+16(DI), Y4, Y7  \
	VPADDD   AT+24(DI), Y4, Y8  \
	VPSRLQ   $32, Y5, Y9        \
	VPSRLQ   $32, Y6, Y10       \
	VPSRLQ   $32, Y7, Y11       \
	VPSRLQ   $32, Y8, Y12       \
	VPMULUDQ Y5, Y9, Y5         \
	VPMULUDQ Y6, Y10, Y6        \
	VPMULUDQ Y7, Y11, Y7        \
	VPMULUDQ Y8, Y12, Y8        \
	VPADDQ   Y5, Y0, Y0         \
	VPADDQ   Y6, Y1, Y1         \
	VPADDQ   Y7, Y2, Y2         \
	VPADDQ   Y8, Y3, Y3

// func vectorNH(key *[keyWords]uint32, page *[PageBytes]byte, lanes *[passes][4]uint64)
TEXT ·vectorNH(SB), NOSPLIT, $0-24
	MOVQ  key+0(FP), DI
	MOVQ  page+8(FP), SI
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	MOVQ  $64, CX

loop:
	VMOVDQU 0(SI), Y4
	PASSES(0)
	VMOVDQU 32(SI), Y4
	PASSES(32)
	ADDQ    $64, SI
	ADDQ    $64, DI
	SUBQ    $1, CX
	JNE     loop

	MOVQ    lanes+16(FP), DI
	VMOVDQU Y0, 0(DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)
	VZEROUPPER
	RET
