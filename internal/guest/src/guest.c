/*
 * The tiny guest: verifies its RAM for ever and counts in RAM and on a disk.
 *
 * One tick: verify 32 pages, dirty one (or dirty=N), count, write the count to
 * sector 1 of the first virtio-blk disk after checking that the disk still
 * holds the count before, print both. A VM that is restored with wrong RAM or
 * a wrong disk prints BAD.
 *
 * 32-bit code without paging. The disk's registers lie above 4 GiB, so they
 * are reached through the VIRTIO_PCI_CAP_PCI_CFG window of config space.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static inline void outb(u16 p, u8 v) { __asm__ volatile("outb %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outw(u16 p, u16 v) { __asm__ volatile("outw %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outl(u16 p, u32 v) { __asm__ volatile("outl %0,%1" ::"a"(v), "Nd"(p)); }
static inline u8 inb(u16 p) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline u16 inw(u16 p) { u16 v; __asm__ volatile("inw %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline u32 inl(u16 p) { u32 v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline void barrier(void) { __asm__ volatile("lock; addl $0,(%%esp)" ::: "memory"); }

/* Serial port. */
static void put(char c) { outb(0x3f8, c); }
static void print(const char *s) { while (*s) put(*s++); }
static void hex(u32 v) { for (int i = 28; i >= 0; i -= 4) put("0123456789abcdef"[(v >> i) & 15]); }

/* Start info (Xen PVH): where RAM ends and what the command line asks for. */
struct start_info { u32 magic, version, flags, modules; u64 modlist, cmdline, rsdp, memmap; u32 entries, reserved; };
struct memmap { u64 addr, size; u32 type, reserved; };

static u32 option(const char *cmd, const char *name, u32 otherwise) {
	for (; cmd && *cmd; cmd++) {
		const char *n = name, *c = cmd;
		while (*n && *n == *c) n++, c++;
		if (*n) continue;
		u32 v = 0;
		while (*c >= '0' && *c <= '9') v = v * 10 + (*c++ - '0');
		return v;
	}
	return otherwise;
}

/* Config space of bus 0. */
static void select(u32 dev, u32 reg) { outl(0xcf8, 0x80000000u | dev << 11 | (reg & 0xfc)); }
static u32 cfg32(u32 dev, u32 reg) { select(dev, reg); return inl(0xcfc); }
static u8 cfg8(u32 dev, u32 reg) { select(dev, reg); return inb(0xcfc + (reg & 3)); }
static void setcfg32(u32 dev, u32 reg, u32 v) { select(dev, reg); outl(0xcfc, v); }

/* The window: bar, offset and length select, then the data register moves. */
struct disk { u32 dev, window, common, notify, notify_mul, device; u32 found; };
static struct disk disk;

static void aim(u32 off, u32 len) {
	setcfg32(disk.dev, disk.window + 4, 0); /* BAR 0 */
	setcfg32(disk.dev, disk.window + 8, off);
	setcfg32(disk.dev, disk.window + 12, len);
	select(disk.dev, disk.window + 16);
}
static void w8(u32 off, u8 v) { aim(off, 1); outb(0xcfc, v); }
static void w16(u32 off, u16 v) { aim(off, 2); outw(0xcfc, v); }
static void w32(u32 off, u32 v) { aim(off, 4); outl(0xcfc, v); }
static u8 r8(u32 off) { aim(off, 1); return inb(0xcfc); }
static u16 r16(u32 off) { aim(off, 2); return inw(0xcfc); }

/* One virtqueue of eight descriptors, polled. */
#define QSIZE 8
struct desc { u64 addr; u32 len; u16 flags, next; };
struct avail { u16 flags, idx, ring[QSIZE]; };
struct used { u16 flags, idx; struct { u32 id, len; } ring[QSIZE]; };
static struct desc desc[QSIZE] __attribute__((aligned(4096)));
static struct avail avail __attribute__((aligned(4096)));
static volatile struct used used __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } request __attribute__((aligned(16)));
static u8 sector[512] __attribute__((aligned(512)));
static volatile u8 status;
static u32 notify_at;

static void find_disk(void) {
	for (u32 dev = 0; dev < 32; dev++) {
		if (cfg32(dev, 0) != 0x10421af4u) continue;
		disk.dev = dev;
		for (u32 at = cfg8(dev, 0x34); at; at = cfg8(dev, at + 1)) {
			if (cfg8(dev, at) != 9) continue;
			u32 off = cfg32(dev, at + 8);
			switch (cfg8(dev, at + 3)) {
			case 1: disk.common = off; break;
			case 2: disk.notify = off; disk.notify_mul = cfg32(dev, at + 16); break;
			case 4: disk.device = off; break;
			case 5: disk.window = at; break;
			}
		}
		if (disk.window) { disk.found = 1; return; }
	}
}

static void w64(u32 off, u32 v) { w32(off, v); w32(off + 4, 0); }

static void start_disk(void) {
	u32 c = disk.common;
	setcfg32(disk.dev, 4, cfg32(disk.dev, 4) | 6); /* memory, bus master */
	w8(c + 20, 0);
	w8(c + 20, 1);
	w8(c + 20, 3);
	w32(c + 8, 0); w32(c + 12, 0);
	w32(c + 8, 1); w32(c + 12, 1); /* VIRTIO_F_VERSION_1 only */
	w8(c + 20, 11);
	if (!(r8(c + 20) & 8)) { print("BAD disk features\n"); disk.found = 0; return; }
	w16(c + 22, 0);
	w16(c + 24, QSIZE);
	w64(c + 32, (u32)desc);
	w64(c + 40, (u32)&avail);
	w64(c + 48, (u32)&used);
	notify_at = disk.notify + r16(c + 30) * disk.notify_mul;
	w16(c + 28, 1);
	w8(c + 20, 15);
	avail.flags = 1; /* no interrupts */
}

/* transfer moves sector 1; write is 1 or 0. False when the device says no. */
static int transfer(u32 write) {
	request.type = write; request.sector = 1;
	desc[0] = (struct desc){(u32)&request, 16, 1, 1};
	desc[1] = (struct desc){(u32)sector, 512, write ? 1 : 3, 2};
	desc[2] = (struct desc){(u32)&status, 1, 2, 0};
	status = 0xff;
	u16 before = used.idx;
	avail.ring[avail.idx % QSIZE] = 0;
	barrier();
	avail.idx++;
	barrier();
	w16(notify_at, 0);
	for (u32 spin = 0; used.idx == before; spin++) __asm__ volatile("pause");
	return status == 0;
}

static const char magic[8] = "COCOON\0";

/* count_disk checks that the disk holds count-1 and makes it hold count. */
static u32 count_disk(u32 count) {
	if (!disk.found) return 0;
	u32 *words = (u32 *)sector;
	if (!transfer(0)) { print("BAD disk io\n"); return 0; }
	int ours = 1;
	for (int i = 0; i < 8; i++) ours &= sector[i] == (u8)magic[i];
	if (ours && words[2] != count - 1 && count != 1) {
		print("BAD disk "); hex(count - 1); put(' '); hex(words[2]); put('\n');
	} else if (!ours && count != 1) {
		print("BAD disk magic\n");
	}
	for (int i = 0; i < 8; i++) sector[i] = magic[i];
	words[2] = count; words[3] = 0;
	if (!transfer(1)) { print("BAD disk io\n"); return 0; }
	for (int i = 0; i < 512; i++) sector[i] = 0;
	if (!transfer(0) || words[2] != count) print("BAD disk io\n");
	return words[2];
}

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

void kmain(struct start_info *si) {
	print("BOOT\n");
	const char *cmd = (const char *)(u32)si->cmdline;
	u32 end = low_ram(si), pages = option(cmd, "fill=", 64) << 8, each = option(cmd, "dirty=", 1);
	if (pages > (end - BASE) >> 12) pages = (end - BASE) >> 12;
	if (pages > 0xc00000 / 4) pages = 0xc00000 / 4;
	pages -= pages % 3;
	find_disk();
	if (disk.found) start_disk();
	for (u32 p = 0; p < pages; p++)
		for (u32 i = 0; i < WORDS && p % 3 != 2; i++) page(p)[i * 64] = mix(p * WORDS + i + 1);
	print("FILLED\n");
	for (u32 count = 1, cursor = 0;; count++) {
		for (u32 k = 0; k < 32; k++) verify(cursor++ % pages);
		for (u32 k = 0; k < each; k++) dirty(mix(count * each + k) % (pages / 3) * 3);
		u32 on_disk = count_disk(count);
		print("tick "); hex(count); put(' '); hex(on_disk); put('\n');
		for (volatile u32 d = 0; d < 2000; d++);
	}
}
