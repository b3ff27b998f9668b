/* Virtio 1.2, 4.2 "Virtio Over MMIO" and 2.7 "Split Virtqueues"; QEMU's microvm has version 1. */
#include "guest.h"

enum {
	MAGIC = 0x000, VERSION = 0x004, DEVICE_ID = 0x008,
	DEVICE_FEATURES = 0x010, DEVICE_FEATURES_SEL = 0x014,
	DRIVER_FEATURES = 0x020, DRIVER_FEATURES_SEL = 0x024,
	GUEST_PAGE_SIZE = 0x028,	/* version 1 */
	QUEUE_SEL = 0x030, QUEUE_NUM = 0x038,
	QUEUE_ALIGN = 0x03c, QUEUE_PFN = 0x040,	/* version 1 */
	QUEUE_READY = 0x044, QUEUE_NOTIFY = 0x050, STATUS = 0x070,
	QUEUE_DESC = 0x080, QUEUE_DRIVER = 0x090, QUEUE_DEVICE = 0x0a0,

	ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8,
	PAGE = 4096, QUEUES = 8, AVAIL_AT = SLOTS * 16, WRITE = 2, NO_INTERRUPT = 1,
};

struct descriptor { u64 address; u32 length; u16 flags, next; };
struct avail { u16 flags, index, ring[SLOTS]; };
struct used { u16 flags, index; struct { u32 id, length; } ring[SLOTS]; };

static u8 rings[QUEUES][2 * PAGE] __attribute__((aligned(PAGE)));
static u8 buffers[QUEUES][SLOTS][BUFFER_BYTES];
static u32 queues;

static u32 get(u32 device, u32 at)
{
	return *(volatile u32 *)(device + at);
}

static void set(u32 device, u32 at, u32 value)
{
	*(volatile u32 *)(device + at) = value;
}

/* VMMs say where their devices are: virtio_mmio.device=SIZE@0xADDRESS:IRQ. */
u32 virtio_find(const char *cmdline, u32 kind)
{
	static const char word[] = "virtio_mmio.device=";

	for (; *cmdline; cmdline++) {
		u32 at = 0, device = 0;

		while (word[at] && cmdline[at] == word[at])
			at++;
		if (word[at])
			continue;
		while (cmdline[at] && cmdline[at] != 'x')
			at++;
		for (; cmdline[at] && cmdline[++at] != ':';) {
			char digit = cmdline[at];

			device = device * 16 + (digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
		}
		if (get(device, MAGIC) == 0x74726976 && get(device, DEVICE_ID) == kind)
			return device;
	}
	return 0;
}

void virtio_begin(u32 device, u32 features)
{
	u32 modern = get(device, VERSION) == 2;

	set(device, STATUS, 0);
	set(device, STATUS, ACKNOWLEDGE);
	set(device, STATUS, ACKNOWLEDGE | DRIVER);
	set(device, DEVICE_FEATURES_SEL, 0);
	features &= get(device, DEVICE_FEATURES);
	set(device, DRIVER_FEATURES_SEL, 0);
	set(device, DRIVER_FEATURES, features);
	if (modern) {
		set(device, DRIVER_FEATURES_SEL, 1);
		set(device, DRIVER_FEATURES, 1);	/* VIRTIO_F_VERSION_1 */
		set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	} else {
		set(device, GUEST_PAGE_SIZE, PAGE);
	}
}

void virtio_queue(struct queue *queue, u32 device, u32 index)
{
	u8 *ring = rings[queues];

	*queue = (struct queue){ device, index, 0, ring, buffers[queues] };
	queues++;
	/* We look ourselves. */
	((struct avail *)(ring + AVAIL_AT))->flags = NO_INTERRUPT;
	set(device, QUEUE_SEL, index);
	set(device, QUEUE_NUM, SLOTS);
	if (get(device, VERSION) == 2) {
		set(device, QUEUE_DESC, (u32)ring);
		set(device, QUEUE_DRIVER, (u32)ring + AVAIL_AT);
		set(device, QUEUE_DEVICE, (u32)ring + PAGE);
		set(device, QUEUE_READY, 1);
	} else {
		set(device, QUEUE_ALIGN, PAGE);
		set(device, QUEUE_PFN, (u32)ring / PAGE);
	}
}

void virtio_ready(u32 device)
{
	u32 modern = get(device, VERSION) == 2;

	set(device, STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK | (modern ? FEATURES_OK : 0));
}

static void give(struct queue *queue, u32 slot, u32 length, u16 flags)
{
	struct descriptor *descriptors = (struct descriptor *)queue->ring;
	struct avail *avail = (struct avail *)(queue->ring + AVAIL_AT);

	descriptors[slot] = (struct descriptor){ (u32)queue->buffers[slot], length, flags, 0 };
	avail->ring[avail->index % SLOTS] = slot;
	/* The processor keeps the order of writes; the compiler must. */
	barrier();
	avail->index++;
	barrier();
	set(queue->device, QUEUE_NOTIFY, queue->index);
}

u8 *virtio_take(struct queue *queue, u32 *slot, u32 *bytes)
{
	volatile struct used *used = (struct used *)(queue->ring + PAGE);
	u32 at = queue->taken % SLOTS;

	if (used->index == queue->taken)
		return NULL;
	queue->taken++;
	barrier();
	*slot = used->ring[at].id;
	*bytes = used->ring[at].length;
	return queue->buffers[*slot];
}

void virtio_offer(struct queue *queue, u32 slot)
{
	give(queue, slot, BUFFER_BYTES, WRITE);
}

void virtio_offer_all(struct queue *queue)
{
	for (u32 slot = 0; slot < SLOTS; slot++)
		virtio_offer(queue, slot);
}

void virtio_send(struct queue *queue, u32 bytes)
{
	u32 slot, length;

	give(queue, 0, bytes, 0);
	while (!virtio_take(queue, &slot, &length))
		asm volatile("pause");
}
