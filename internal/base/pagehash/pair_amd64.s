#include "textflag.h"

// Two SHA-256 computations side by side on the SHA-NI instructions.
//
// A stream needs its state in two registers, in the order that SHA256RNDS2
// wants (from the lowest word on): ABEF holds F E B A, CDGH holds H G D C. Its
// last sixteen message words stand in four registers that are used in turn.
// X0 is the operand that SHA256RNDS2 takes without naming it.

#define A_ABEF X1
#define A_CDGH X2
#define A0 X3
#define A1 X4
#define A2 X5
#define A3 X6
#define B_ABEF X7
#define B_CDGH X8
#define B0 X9
#define B1 X10
#define B2 X11
#define B3 X12
#define TMP_A X13
#define TMP_B X14
#define SWAP X15

#define CONSTANTS R8

// LOAD takes four message words, which are big-endian in memory.
#define LOAD(from, at, w) \
	MOVOU  at(from), w \
	PSHUFB SWAP, w

// ROUNDS does four rounds with the message words w. After each SHA256RNDS2 the
// halves of the state have changed places.
#define ROUNDS(w, group, abef, cdgh) \
	MOVOU       (group*16)(CONSTANTS), X0 \
	PADDL       w, X0                     \
	SHA256RNDS2 X0, abef, cdgh            \
	PSHUFD      $0x0E, X0, X0             \
	SHA256RNDS2 X0, cdgh, abef

// NEXT completes the words of the next group in next, which STIR prepared four
// groups earlier; w are the words of this group, before those of the last one.
#define NEXT(w, before, next, tmp) \
	MOVO       w, tmp          \
	PALIGNR    $4, before, tmp \
	PADDL      tmp, next       \
	SHA256MSG2 w, next

// STIR begins the words that follow three groups after w in the place of those
// before w.
#define STIR(w, before) \
	SHA256MSG1 w, before

// Groups of four rounds for both streams. The first three take loaded words,
// the last three need no more words prepared, the last one none completed.
#define FIRST(group, at, wa, beforea, wb, beforeb) \
	LOAD(SI, at, wa)                   \
	LOAD(DI, at, wb)                   \
	ROUNDS(wa, group, A_ABEF, A_CDGH)  \
	ROUNDS(wb, group, B_ABEF, B_CDGH)  \
	STIR(wa, beforea)                  \
	STIR(wb, beforeb)

#define MIDDLE(group, wa, beforea, nexta, wb, beforeb, nextb) \
	ROUNDS(wa, group, A_ABEF, A_CDGH) \
	ROUNDS(wb, group, B_ABEF, B_CDGH) \
	NEXT(wa, beforea, nexta, TMP_A)   \
	NEXT(wb, beforeb, nextb, TMP_B)   \
	STIR(wa, beforea)                 \
	STIR(wb, beforeb)

#define LATE(group, wa, beforea, nexta, wb, beforeb, nextb) \
	ROUNDS(wa, group, A_ABEF, A_CDGH) \
	ROUNDS(wb, group, B_ABEF, B_CDGH) \
	NEXT(wa, beforea, nexta, TMP_A)   \
	NEXT(wb, beforeb, nextb, TMP_B)

// func pairBlocks(states *[2]state, a, b *byte, blocks int)
TEXT ·pairBlocks(SB), NOSPLIT, $64-32
	MOVQ states+0(FP), AX
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), DI
	MOVQ blocks+24(FP), CX
	TESTQ CX, CX
	JZ   done
	LEAQ ·roundConstants(SB), CONSTANTS
	MOVOU ·wordSwap(SB), SWAP
	MOVOU 0(AX), A_ABEF
	MOVOU 16(AX), A_CDGH
	MOVOU 32(AX), B_ABEF
	MOVOU 48(AX), B_CDGH

block:
	MOVOU A_ABEF, saved-64(SP)
	MOVOU A_CDGH, saved-48(SP)
	MOVOU B_ABEF, saved-32(SP)
	MOVOU B_CDGH, saved-16(SP)

	LOAD(SI, 0, A0)
	LOAD(DI, 0, B0)
	ROUNDS(A0, 0, A_ABEF, A_CDGH)
	ROUNDS(B0, 0, B_ABEF, B_CDGH)
	FIRST(1, 16, A1, A0, B1, B0)
	FIRST(2, 32, A2, A1, B2, B1)
	LOAD(SI, 48, A3)
	LOAD(DI, 48, B3)
	MIDDLE(3, A3, A2, A0, B3, B2, B0)
	MIDDLE(4, A0, A3, A1, B0, B3, B1)
	MIDDLE(5, A1, A0, A2, B1, B0, B2)
	MIDDLE(6, A2, A1, A3, B2, B1, B3)
	MIDDLE(7, A3, A2, A0, B3, B2, B0)
	MIDDLE(8, A0, A3, A1, B0, B3, B1)
	MIDDLE(9, A1, A0, A2, B1, B0, B2)
	MIDDLE(10, A2, A1, A3, B2, B1, B3)
	MIDDLE(11, A3, A2, A0, B3, B2, B0)
	MIDDLE(12, A0, A3, A1, B0, B3, B1)
	LATE(13, A1, A0, A2, B1, B0, B2)
	LATE(14, A2, A1, A3, B2, B1, B3)
	ROUNDS(A3, 15, A_ABEF, A_CDGH)
	ROUNDS(B3, 15, B_ABEF, B_CDGH)

	MOVOU saved-64(SP), TMP_A
	PADDL TMP_A, A_ABEF
	MOVOU saved-48(SP), TMP_A
	PADDL TMP_A, A_CDGH
	MOVOU saved-32(SP), TMP_B
	PADDL TMP_B, B_ABEF
	MOVOU saved-16(SP), TMP_B
	PADDL TMP_B, B_CDGH
	ADDQ  $64, SI
	ADDQ  $64, DI
	DECQ  CX
	JNZ   block

	MOVOU A_ABEF, 0(AX)
	MOVOU A_CDGH, 16(AX)
	MOVOU B_ABEF, 32(AX)
	MOVOU B_CDGH, 48(AX)

done:
	RET

// func cpuid(leaf, subleaf uint32) (eax, ebx, ecx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-20
	MOVL leaf+0(FP), AX
	MOVL subleaf+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	RET

// wordSwap turns each big-endian word round.
DATA ·wordSwap+0(SB)/8, $0x0405060700010203
DATA ·wordSwap+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL ·wordSwap(SB), RODATA|NOPTR, $16

// roundConstants are the first 32 bits of the fractions of the cube roots of
// the first 64 primes (FIPS 180-4).
DATA ·roundConstants+0(SB)/8, $0x71374491428a2f98
DATA ·roundConstants+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA ·roundConstants+16(SB)/8, $0x59f111f13956c25b
DATA ·roundConstants+24(SB)/8, $0xab1c5ed5923f82a4
DATA ·roundConstants+32(SB)/8, $0x12835b01d807aa98
DATA ·roundConstants+40(SB)/8, $0x550c7dc3243185be
DATA ·roundConstants+48(SB)/8, $0x80deb1fe72be5d74
DATA ·roundConstants+56(SB)/8, $0xc19bf1749bdc06a7
DATA ·roundConstants+64(SB)/8, $0xefbe4786e49b69c1
DATA ·roundConstants+72(SB)/8, $0x240ca1cc0fc19dc6
DATA ·roundConstants+80(SB)/8, $0x4a7484aa2de92c6f
DATA ·roundConstants+88(SB)/8, $0x76f988da5cb0a9dc
DATA ·roundConstants+96(SB)/8, $0xa831c66d983e5152
DATA ·roundConstants+104(SB)/8, $0xbf597fc7b00327c8
DATA ·roundConstants+112(SB)/8, $0xd5a79147c6e00bf3
DATA ·roundConstants+120(SB)/8, $0x1429296706ca6351
DATA ·roundConstants+128(SB)/8, $0x2e1b213827b70a85
DATA ·roundConstants+136(SB)/8, $0x53380d134d2c6dfc
DATA ·roundConstants+144(SB)/8, $0x766a0abb650a7354
DATA ·roundConstants+152(SB)/8, $0x92722c8581c2c92e
DATA ·roundConstants+160(SB)/8, $0xa81a664ba2bfe8a1
DATA ·roundConstants+168(SB)/8, $0xc76c51a3c24b8b70
DATA ·roundConstants+176(SB)/8, $0xd6990624d192e819
DATA ·roundConstants+184(SB)/8, $0x106aa070f40e3585
DATA ·roundConstants+192(SB)/8, $0x1e376c0819a4c116
DATA ·roundConstants+200(SB)/8, $0x34b0bcb52748774c
DATA ·roundConstants+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA ·roundConstants+216(SB)/8, $0x682e6ff35b9cca4f
DATA ·roundConstants+224(SB)/8, $0x78a5636f748f82ee
DATA ·roundConstants+232(SB)/8, $0x8cc7020884c87814
DATA ·roundConstants+240(SB)/8, $0xa4506ceb90befffa
DATA ·roundConstants+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL ·roundConstants(SB), RODATA|NOPTR, $256
