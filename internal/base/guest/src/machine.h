/*
 * What every part of the guest stands on: integers, port I/O, the serial port
 * and the modern virtio-pci devices of bus 0.
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
static inline void put(char c) { outb(0x3f8, c); }
void print(const char *s);
void hex(u32 v);

/*
 * A virtio device. Its registers lie above 4 GiB, so they are reached through
 * the VIRTIO_PCI_CAP_PCI_CFG window of config space.
 */
struct device { u32 dev, window, common, notify, notify_mul, config; };
#define DISK_DEVICE 0x10421af4u
#define NET_DEVICE 0x10411af4u

int find_device(struct device *d, u32 id);            /* the first one; 0: none */
int begin_device(struct device *d, u32 features);     /* features: the low 32; 0: refused */
void ready_device(struct device *d);
u8 config8(struct device *d, u32 at);

/* One virtqueue, polled. Descriptor i is used by whoever owns slot i. */
#define QSIZE 8
#define NEXT 1
#define DEVICE_WRITES 2
struct desc { u64 addr; u32 len; u16 flags, next; };
struct avail { u16 flags, idx, ring[QSIZE]; };
struct used { u16 flags, idx; struct { u32 id, len; } ring[QSIZE]; };
struct queue {
	struct desc desc[QSIZE] __attribute__((aligned(4096)));
	struct avail avail __attribute__((aligned(4096)));
	volatile struct used used __attribute__((aligned(4096)));
	struct device *device;
	u32 index, notify_at;
};

void add_queue(struct device *d, struct queue *q, u32 index);
void offer(struct queue *q, u16 slot); /* hands over the chain that begins at desc[slot] */
void kick(struct queue *q);

/* The disk. */
void start_disk(void);
u32 count_disk(u32 count); /* checks for count-1, writes count; 0 without a disk */

/* The network. cmd is the kernel command line. */
void start_net(const char *cmd);
void serve_net(void);
void beat_net(u32 count);

/* option finds a word "name…" of the command line and returns what follows. */
const char *option(const char *cmd, const char *name);
u32 number(const char **at);
