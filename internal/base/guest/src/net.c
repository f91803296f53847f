/*
 * The network: answers ARP for its address and ICMP echo, and sends a UDP
 * datagram with the RAM counter to its gateway each tick.
 *
 * All it knows is in RAM: its MAC as the device said at boot, its addresses as
 * the command line did, the MAC of the gateway as ARP last told. So a restored
 * guest goes on as the one it was, whatever the world outside has become.
 */
#include "machine.h"

#define FRAME 2048
#define HEADER 12 /* struct virtio_net_hdr of a modern device, all zero */
#define MAC_FEATURE (1u << 5)
#define ASK_EVERY 256 /* ticks between questions for a MAC that is known */

struct buffer { u8 header[HEADER], frame[FRAME - HEADER]; };
static struct device device;
static struct queue rx, tx;
static struct buffer received[QSIZE] __attribute__((aligned(4096)));
static struct buffer sent[QSIZE] __attribute__((aligned(4096)));
static u16 taken; /* of rx.used */
static int on, gateway_known;
static u8 mac[6], gateway_mac[6];
static u32 address, gateway, port; /* host order */

static void set16(u8 *p, u32 v) { p[0] = v >> 8; p[1] = v; }
static void set32(u8 *p, u32 v) { set16(p, v >> 16); set16(p + 2, v); }
static u32 get16(const u8 *p) { return p[0] << 8 | p[1]; }
static u32 get32(const u8 *p) { return get16(p) << 16 | get16(p + 2); }
static void copy(u8 *to, const u8 *from, u32 n) { while (n--) *to++ = *from++; }

/* ip reads 10.1.2.3; a prefix length may follow and is of no interest. */
static u32 ip(const char *at) {
	u32 v = 0;
	for (int i = 0; at && i < 4; i++, at += *at == '.') v = v << 8 | (number(&at) & 255);
	return v;
}

void start_net(const char *cmd) {
	const char *beat = option(cmd, "hb=");
	address = ip(option(cmd, "net="));
	gateway = ip(option(cmd, "gw="));
	port = beat ? number(&beat) : 0;
	if (!address || !find_device(&device, NET_DEVICE)) return;
	if (!begin_device(&device, MAC_FEATURE)) { print("BAD net features\n"); return; }
	for (u32 i = 0; i < 6; i++) mac[i] = config8(&device, i);
	add_queue(&device, &rx, 0);
	add_queue(&device, &tx, 1);
	for (u32 i = 0; i < QSIZE; i++) {
		rx.desc[i] = (struct desc){(u32)&received[i], FRAME, DEVICE_WRITES, 0};
		offer(&rx, i);
	}
	ready_device(&device);
	kick(&rx);
	on = 1;
}

/* outgoing gives a frame to fill, to that MAC; 0 when the device is behind: a network may lose frames. */
static u8 *outgoing(const u8 *to, u32 type) {
	if ((u16)(tx.avail.idx - tx.used.idx) == QSIZE) return 0;
	u8 *f = sent[tx.avail.idx % QSIZE].frame;
	copy(f, to, 6);
	copy(f + 6, mac, 6);
	set16(f + 12, type);
	return f;
}

static void transmit(u32 bytes) {
	u16 slot = tx.avail.idx % QSIZE;
	tx.desc[slot] = (struct desc){(u32)&sent[slot], HEADER + bytes, 0, 0};
	offer(&tx, slot);
	kick(&tx);
}

static const u8 everybody[6] = {255, 255, 255, 255, 255, 255};
static const u8 nobody[6];

/* arp sends a question (1) or an answer (2). */
static void arp(u32 kind, const u8 *to, const u8 *target_mac, u32 target) {
	static const u8 head[6] = {0, 1, 8, 0, 6, 4};
	u8 *f = outgoing(to, 0x0806);
	if (!f) return;
	copy(f + 14, head, 6);
	set16(f + 20, kind);
	copy(f + 22, mac, 6);
	set32(f + 28, address);
	copy(f + 32, target_mac, 6);
	set32(f + 38, target);
	transmit(42);
}

static void take_arp(const u8 *f, u32 bytes) {
	if (bytes < 42 || get32(f + 14) != 0x00010800 || get16(f + 18) != 0x0604) return;
	u32 sender = get32(f + 28);
	if (gateway && sender == gateway) {
		copy(gateway_mac, f + 22, 6);
		gateway_known = 1;
	}
	if (get16(f + 20) == 1 && get32(f + 38) == address) arp(2, f + 22, f + 22, sender);
}

static u32 fold(u32 sum) {
	while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static u32 checksum(const u8 *p, u32 bytes) {
	u32 sum = 0;
	for (u32 i = 0; i < bytes; i += 2) sum += get16(p + i);
	return ~fold(sum) & 0xffff;
}

/* ipv4 writes the header of a packet for the payload that follows it. */
static void ipv4(u8 *h, u32 protocol, u32 to, u32 payload) {
	set32(h, 0x45000000 | (20 + payload));
	set32(h + 4, 0x4000); /* never in pieces */
	set16(h + 8, 64 << 8 | protocol);
	set16(h + 10, 0);
	set32(h + 12, address);
	set32(h + 16, to);
	set16(h + 10, checksum(h, 20));
}

static void take_ipv4(const u8 *f, u32 bytes) {
	const u8 *h = f + 14;
	u32 total = get16(h + 2);
	if (bytes < 42 || h[0] != 0x45 || total < 28 || total > bytes - 14) return;
	if (get32(h + 16) != address || get16(h + 6) & 0x3fff || h[9] != 1 || h[20] != 8) return;
	u8 *out = outgoing(f + 6, 0x0800);
	if (!out) return;
	ipv4(out + 14, 1, get32(h + 12), total - 20);
	copy(out + 34, h + 20, total - 20);
	out[34] = 0; /* echo reply */
	set16(out + 36, fold(get16(h + 22) + 0x0800));
	transmit(14 + total);
}

void serve_net(void) {
	if (!on || taken == rx.used.idx) return;
	while (taken != rx.used.idx) {
		u32 slot = rx.used.ring[taken % QSIZE].id, bytes = rx.used.ring[taken % QSIZE].len;
		const u8 *f = received[slot].frame;
		if (bytes >= HEADER + 14) {
			bytes -= HEADER;
			if (get16(f + 12) == 0x0806) take_arp(f, bytes);
			if (get16(f + 12) == 0x0800) take_ipv4(f, bytes);
		}
		taken++;
		offer(&rx, slot);
	}
	kick(&rx);
}

/* The datagram: "beat 0000002a 0a010203", counter and address. */
void beat_net(u32 count) {
	if (!on || !gateway || !port) return;
	if (!gateway_known || count % ASK_EVERY == 0) arp(1, everybody, nobody, gateway);
	u8 *f = gateway_known ? outgoing(gateway_mac, 0x0800) : 0;
	if (!f) return;
	u8 *text = f + 42;
	copy(text, (const u8 *)"beat ", 5);
	for (u32 i = 0; i < 8; i++) {
		text[5 + i] = "0123456789abcdef"[(count >> (28 - 4 * i)) & 15];
		text[14 + i] = "0123456789abcdef"[(address >> (28 - 4 * i)) & 15];
	}
	text[13] = ' ';
	ipv4(f + 14, 17, gateway, 8 + 22);
	set16(f + 34, port);
	set16(f + 36, port);
	set32(f + 38, (8 + 22) << 16); /* length; no checksum */
	transmit(42 + 22);
}
