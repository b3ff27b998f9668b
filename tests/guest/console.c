/* Virtio 1.2, 5.3 "Console Device", with several ports. */
#include "guest.h"

enum {
	F_MULTIPORT = 1 << 1,
	CONTROL_IN = 2, CONTROL_OUT = 3,
	PORT_READY = 3, PORT_ADD = 1, PORT_OPEN = 6, DEVICE_READY = 0,
};

struct control { u32 id; u16 event, value; };

static struct queue control_in, control_out, in, out;
static u32 open;

static void tell(u32 id, u16 event, u16 value)
{
	*(struct control *)control_out.buffers[0] = (struct control){ id, event, value };
	virtio_send(&control_out, sizeof(struct control));
}

void console_start(u32 device)
{
	virtio_begin(device, F_MULTIPORT);
	virtio_queue(&control_in, device, CONTROL_IN);
	virtio_queue(&control_out, device, CONTROL_OUT);
	/* Port 0 is for virtconsoles; the first virtserialport is 1. */
	virtio_queue(&in, device, 4);
	virtio_queue(&out, device, 5);
	virtio_ready(device);
	virtio_offer_all(&control_in);
	virtio_offer_all(&in);
	tell(0, DEVICE_READY, 1);
}

static void poll_control(void)
{
	u32 slot, bytes;
	struct control *said = (struct control *)virtio_take(&control_in, &slot, &bytes);

	if (!said)
		return;
	if (said->event == PORT_ADD && said->id == 1) {
		tell(1, PORT_READY, 1);
		tell(1, PORT_OPEN, 1);
		open = 1;
	}
	virtio_offer(&control_in, slot);
}

void console_poll(void)
{
	u32 slot, bytes;
	u8 *came;

	poll_control();
	while (open && stream_room() >= BUFFER_BYTES && (came = virtio_take(&in, &slot, &bytes))) {
		stream_put(came, bytes);
		virtio_offer(&in, slot);
	}
}

void console_write(const void *bytes, u32 length)
{
	while (length) {
		u32 part = length < BUFFER_BYTES ? length : BUFFER_BYTES;

		copy(out.buffers[0], bytes, part);
		virtio_send(&out, part);
		bytes = (const u8 *)bytes + part;
		length -= part;
	}
}
