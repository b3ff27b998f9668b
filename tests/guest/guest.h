/*
 * A guest without a kernel: virtio-mmio, virtio-console or virtio-vsock, and the agent's protocol.
 *
 * It shares no code with what it tests. It is 32-bit code that needs no page tables, no interrupts
 * and no floating point, and it is short: some hosts interpret every instruction of a guest's ring 0
 * (see tests/boot/bare.rs).
 *
 *	agent.c		the protocol: bytes in, commands, bytes out
 *	stream.c	one byte stream to the host, whichever device there is
 *	console.c	the virtio-serial port "imgtool.agent" (QEMU)
 *	vsock.c		a listening vsock port (Firecracker)
 *	virtio.c	devices on virtio-mmio, legacy and modern, and their queues
 *	start.S		the entry
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NULL ((void *)0)

enum {
	DEVICE_CONSOLE = 3,
	DEVICE_VSOCK = 19,
	SLOTS = 8,		/* buffers of a queue */
	BUFFER_BYTES = 4096,
	INPUT_BYTES = 128 * 1024,
};

/* virtio.c */

struct queue {
	u32 device, index;
	u16 taken;		/* how far we are in the used ring */
	u8 *ring;		/* two pages: descriptors and what we offer; what was used */
	u8 (*buffers)[BUFFER_BYTES];
};

/* The address of the first device of that kind, or 0. */
u32 virtio_find(const char *cmdline, u32 kind);
/* Resets it and takes those of the first 32 features that it has. */
void virtio_begin(u32 device, u32 features);
/* At most eight queues in all. */
void virtio_queue(struct queue *queue, u32 device, u32 index);
void virtio_ready(u32 device);
/* Gives all buffers of a queue to the device to write to. */
void virtio_offer_all(struct queue *queue);
/* The bytes that the device wrote, or NULL; to be given back with virtio_offer. */
u8 *virtio_take(struct queue *queue, u32 *slot, u32 *bytes);
void virtio_offer(struct queue *queue, u32 slot);
/* Sends what lies in the first buffer, and waits until the device has read it. */
void virtio_send(struct queue *queue, u32 bytes);

/* console.c, vsock.c: poll puts what came into the stream; write sends all of it. */

void console_start(u32 device);
void console_poll(void);
void console_write(const void *bytes, u32 length);
void vsock_start(u32 device);
void vsock_poll(void);
void vsock_write(const void *bytes, u32 length);

/* stream.c */

/* Finds the device that leads to the host; stops where there is none. */
void stream_start(const char *cmdline);
void stream_poll(void);
void stream_write(const void *bytes, u32 length);
/* What came and was not taken yet: so many bytes lie together at the address. */
u32 stream_peek(const u8 **bytes);
void stream_taken(u32 length);
/* For devices: the room there is, and bytes for it. */
u32 stream_room(void);
void stream_put(const u8 *bytes, u32 length);
/* Ends the machine. */
void power_off(void);
/* On the serial console. */
void say(const char *text);

/* agent.c */

void agent_poll(void);

static inline void copy(void *to, const void *from, u32 bytes)
{
	u32 words = bytes / 4, rest = bytes % 4;

	/* Few instructions, however many bytes. */
	asm volatile("rep movsl; mov %3, %%ecx; rep movsb"
		     : "+D"(to), "+S"(from), "+c"(words) : "r"(rest) : "memory");
}

static inline void barrier(void)
{
	asm volatile("" ::: "memory");
}
