/*
 * The tiny guest: verifies its RAM for ever and counts in RAM and on a disk.
 *
 * One tick: verify 32 pages, dirty one (or dirty=N), count, write the count to
 * sector 1 of the first virtio-blk disk after checking that the disk still
 * holds the count before, send it over the network, print both. A VM that is
 * restored with wrong RAM or a wrong disk prints BAD. 32-bit code, no paging.
 */
#include "machine.h"

/* Start info (Xen PVH): where RAM ends and what the command line asks for. */
struct start_info { u32 magic, version, flags, modules; u64 modlist, cmdline, rsdp, memmap; u32 entries, reserved; };
struct memmap { u64 addr, size; u32 type, reserved; };

/* The pattern: page p holds 16 words of hash(p) plus its version; p%3 == 2 is zero. */
#define BASE 0x1000000u
#define WORDS 16
static u32 mix(u32 x) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; return x * 2654435761u; }
static u32 *page(u32 p) { return (u32 *)(BASE + (p << 12)); }
static u32 *versions = (u32 *)0x400000; /* below BASE: a word a page, 3 M pages at most */

static void verify(u32 p) {
	u32 *a = page(p);
	if (p % 3 == 2) {
		if (a[0] || a[1023]) { print("BAD zero "); hex(p); put('\n'); }
		return;
	}
	for (u32 i = 0; i < WORDS; i++)
		if (a[i * 64] != mix(p * WORDS + i + 1) + versions[p]) { print("BAD page "); hex(p); put('\n'); return; }
}

static void dirty(u32 p) {
	versions[p]++;
	for (u32 i = 0; i < WORDS; i++) page(p)[i * 64]++;
}

static u32 low_ram(struct start_info *si) {
	struct memmap *m = (struct memmap *)(u32)si->memmap;
	u64 end = 0;
	for (u32 i = 0; i < si->entries; i++)
		if (m[i].type == 1 && m[i].addr + m[i].size <= 0xc0000000ull && m[i].addr <= BASE && m[i].addr + m[i].size > BASE) end = m[i].addr + m[i].size;
	return end ? end : 0x4000000;
}

static u32 value(const char *cmd, const char *name, u32 otherwise) {
	const char *at = option(cmd, name);
	return at ? number(&at) : otherwise;
}

void kmain(struct start_info *si) {
	print("BOOT\n");
	const char *cmd = (const char *)(u32)si->cmdline;
	u32 end = low_ram(si), pages = value(cmd, "fill=", 64) << 8, each = value(cmd, "dirty=", 1);
	if (pages > (end - BASE) >> 12) pages = (end - BASE) >> 12;
	if (pages > 0xc00000 / 4) pages = 0xc00000 / 4;
	pages -= pages % 3;
	start_disk();
	start_net(cmd);
	for (u32 p = 0; p < pages; p++)
		for (u32 i = 0; i < WORDS && p % 3 != 2; i++) page(p)[i * 64] = mix(p * WORDS + i + 1);
	print("FILLED\n");
	for (u32 count = 1, cursor = 0;; count++) {
		for (u32 k = 0; k < 32; k++) verify(cursor++ % pages);
		for (u32 k = 0; k < each; k++) dirty(mix(count * each + k) % (pages / 3) * 3);
		u32 on_disk = count_disk(count);
		beat_net(count);
		print("tick "); hex(count); put(' '); hex(on_disk); put('\n');
		for (volatile u32 d = 0; d < 2000; d++) serve_net();
	}
}
