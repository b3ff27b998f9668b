/* Virtio 1.2, 5.10 "Socket Device": one listening port, one connection, the newest. */
#include "guest.h"

enum {
	IN = 0, OUT = 1, EVENT = 2, CID_AT = 0x100, HOST = 2, STREAM = 1,
	REQUEST = 1, RESPONSE = 2, RST = 3, SHUTDOWN = 4, RW = 5, CREDIT_UPDATE = 6, CREDIT_REQUEST = 7,
	PORT = 1024,
};

struct header {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, length;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct queue in, out, events;
static u64 cid;
static u32 peer;			/* the host's port, 0 where nobody is connected */
static u32 received, sent, told;	/* told: how much of what came the host knows to be taken */
static u32 peer_alloc, peer_taken;	/* the host's room, and what of ours it has passed on */

/* The host never has more on its way than there is room for. */
static u32 taken(void)
{
	return received - (INPUT_BYTES - stream_room());
}

static void tell(u32 to, u16 op, const void *bytes, u32 length)
{
	struct header *header = (struct header *)out.buffers[0];

	told = taken();
	*header = (struct header){ cid, HOST, PORT, to, length, STREAM, op, 0, INPUT_BYTES, told };
	copy(header + 1, bytes, length);
	virtio_send(&out, sizeof *header + length);
}

void vsock_start(u32 device)
{
	virtio_begin(device, 0);
	virtio_queue(&in, device, IN);
	virtio_queue(&out, device, OUT);
	virtio_queue(&events, device, EVENT);
	virtio_ready(device);
	cid = *(volatile u32 *)(device + CID_AT);
	virtio_offer_all(&in);
	virtio_offer_all(&events);
}

static void came(const struct header *header)
{
	if (header->op == REQUEST && header->dst_port == PORT) {
		peer = header->src_port;
		sent = 0;
		/* What is left of an older connection takes up room. */
		received = INPUT_BYTES - stream_room();
		peer_alloc = header->buf_alloc;
		peer_taken = header->fwd_cnt;
		tell(peer, RESPONSE, NULL, 0);
		return;
	}
	if (header->src_port != peer || header->dst_port != PORT) {
		if (header->op != RST)
			tell(header->src_port, RST, NULL, 0);
		return;
	}
	peer_alloc = header->buf_alloc;
	peer_taken = header->fwd_cnt;
	switch (header->op) {
	case RW:
		stream_put((const u8 *)(header + 1), header->length);
		received += header->length;
		break;
	case CREDIT_REQUEST:
		tell(peer, CREDIT_UPDATE, NULL, 0);
		break;
	case SHUTDOWN:
		tell(peer, RST, NULL, 0);
		peer = 0;
		break;
	case RST:
		peer = 0;
		break;
	}
}

void vsock_poll(void)
{
	u32 slot, bytes;
	u8 *packet;

	if (peer && taken() - told >= INPUT_BYTES / 4)
		tell(peer, CREDIT_UPDATE, NULL, 0);
	while ((packet = virtio_take(&in, &slot, &bytes))) {
		came((struct header *)packet);
		virtio_offer(&in, slot);
	}
	while (virtio_take(&events, &slot, &bytes)) {
		/* The machine was restored from a snapshot: connections are gone. */
		peer = 0;
		virtio_offer(&events, slot);
	}
}

void vsock_write(const void *bytes, u32 length)
{
	while (length && peer) {
		u32 part = peer_alloc - (sent - peer_taken);
		u32 most = BUFFER_BYTES - sizeof(struct header);

		if (!part) {
			vsock_poll();
			continue;
		}
		if (part > most)
			part = most;
		if (part > length)
			part = length;
		sent += part;
		tell(peer, RW, bytes, part);
		bytes = (const u8 *)bytes + part;
		length -= part;
	}
}
