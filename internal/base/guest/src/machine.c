/* Serial output, the command line, and virtio-pci through its config window. */
#include "machine.h"

void print(const char *s) { while (*s) put(*s++); }
void hex(u32 v) { for (int i = 28; i >= 0; i -= 4) put("0123456789abcdef"[(v >> i) & 15]); }

const char *option(const char *cmd, const char *name) {
	for (const char *word = cmd; word && *word; word++) {
		const char *n = name, *c = word;
		if (word != cmd && word[-1] != ' ' && word[-1] != ',') continue;
		while (*n && *n == *c) n++, c++;
		if (!*n) return c;
	}
	return 0;
}

u32 number(const char **at) {
	u32 v = 0;
	while (**at >= '0' && **at <= '9') v = v * 10 + (*(*at)++ - '0');
	return v;
}

/* Config space of bus 0. */
static void select(u32 dev, u32 reg) { outl(0xcf8, 0x80000000u | dev << 11 | (reg & 0xfc)); }
static u32 cfg32(u32 dev, u32 reg) { select(dev, reg); return inl(0xcfc); }
static u8 cfg8(u32 dev, u32 reg) { select(dev, reg); return inb(0xcfc + (reg & 3)); }
static void setcfg32(u32 dev, u32 reg, u32 v) { select(dev, reg); outl(0xcfc, v); }

/* The window: bar, offset and length select, then the data register moves. */
static void aim(struct device *d, u32 off, u32 len) {
	setcfg32(d->dev, d->window + 4, 0); /* BAR 0 */
	setcfg32(d->dev, d->window + 8, off);
	setcfg32(d->dev, d->window + 12, len);
	select(d->dev, d->window + 16);
}
static void w8(struct device *d, u32 off, u8 v) { aim(d, off, 1); outb(0xcfc, v); }
static void w16(struct device *d, u32 off, u16 v) { aim(d, off, 2); outw(0xcfc, v); }
static void w32(struct device *d, u32 off, u32 v) { aim(d, off, 4); outl(0xcfc, v); }
static void w64(struct device *d, u32 off, u32 v) { w32(d, off, v); w32(d, off + 4, 0); }
static u8 r8(struct device *d, u32 off) { aim(d, off, 1); return inb(0xcfc); }
static u16 r16(struct device *d, u32 off) { aim(d, off, 2); return inw(0xcfc); }

u8 config8(struct device *d, u32 at) { return r8(d, d->config + at); }

int find_device(struct device *d, u32 id) {
	for (u32 dev = 0; dev < 32; dev++) {
		if (cfg32(dev, 0) != id) continue;
		d->dev = dev;
		for (u32 at = cfg8(dev, 0x34); at; at = cfg8(dev, at + 1)) {
			if (cfg8(dev, at) != 9) continue;
			u32 off = cfg32(dev, at + 8);
			switch (cfg8(dev, at + 3)) {
			case 1: d->common = off; break;
			case 2: d->notify = off; d->notify_mul = cfg32(dev, at + 16); break;
			case 4: d->config = off; break;
			case 5: d->window = at; break;
			}
		}
		if (d->window) return 1;
	}
	return 0;
}

int begin_device(struct device *d, u32 features) {
	u32 c = d->common;
	setcfg32(d->dev, 4, cfg32(d->dev, 4) | 6); /* memory, bus master */
	w8(d, c + 20, 0);
	w8(d, c + 20, 1);
	w8(d, c + 20, 3);
	w32(d, c + 8, 0); w32(d, c + 12, features);
	w32(d, c + 8, 1); w32(d, c + 12, 1); /* VIRTIO_F_VERSION_1 */
	w8(d, c + 20, 11);
	return r8(d, c + 20) & 8;
}

void add_queue(struct device *d, struct queue *q, u32 index) {
	u32 c = d->common;
	q->device = d;
	q->index = index;
	w16(d, c + 22, index);
	w16(d, c + 24, QSIZE);
	w64(d, c + 32, (u32)q->desc);
	w64(d, c + 40, (u32)&q->avail);
	w64(d, c + 48, (u32)&q->used);
	q->notify_at = d->notify + r16(d, c + 30) * d->notify_mul;
	w16(d, c + 28, 1);
	q->avail.flags = 1; /* no interrupts */
}

void ready_device(struct device *d) { w8(d, d->common + 20, 15); }

void offer(struct queue *q, u16 slot) {
	q->avail.ring[q->avail.idx % QSIZE] = slot;
	barrier();
	q->avail.idx++;
	barrier();
}

void kick(struct queue *q) { w16(q->device, q->notify_at, q->index); }
