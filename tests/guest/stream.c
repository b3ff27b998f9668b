/* One byte stream to the host, and the machine's beginning and end. */
#include "guest.h"

static u8 input[INPUT_BYTES];
static u32 first, filled;
static u32 is_vsock;

static void out(u16 port, u8 value)
{
	asm volatile("outb %0, %1" :: "a"(value), "Nd"(port));
}

void say(const char *text)
{
	while (*text)
		out(0x3f8, *text++);
}

void power_off(void)
{
	extern void triple_fault(void);

	/* Firecracker listens to the keyboard controller's reset, a microvm of QEMU's has none. */
	out(0x64, 0xfe);
	while (is_vsock)
		asm volatile("pause");
	triple_fault();
}

void stream_start(const char *cmdline)
{
	u32 device = virtio_find(cmdline, DEVICE_CONSOLE);

	if (device)
		return console_start(device);
	device = virtio_find(cmdline, DEVICE_VSOCK);
	if (!device) {
		say("Kernel panic - not syncing: no virtio-console and no virtio-vsock\n");
		power_off();
	}
	is_vsock = 1;
	vsock_start(device);
}

void stream_poll(void)
{
	is_vsock ? vsock_poll() : console_poll();
}

void stream_write(const void *bytes, u32 length)
{
	is_vsock ? vsock_write(bytes, length) : console_write(bytes, length);
}

u32 stream_peek(const u8 **bytes)
{
	*bytes = input + first;
	return filled < INPUT_BYTES - first ? filled : INPUT_BYTES - first;
}

void stream_taken(u32 length)
{
	first = (first + length) % INPUT_BYTES;
	filled -= length;
}

u32 stream_room(void)
{
	return INPUT_BYTES - filled;
}

void stream_put(const u8 *bytes, u32 length)
{
	u32 at = (first + filled) % INPUT_BYTES, part = INPUT_BYTES - at;

	if (part > length)
		part = length;
	copy(input + at, bytes, part);
	copy(input, bytes + part, length - part);
	filled += length;
}

/* struct hvm_start_info: the address of the command line is its fourth field. */
void guest(const u32 *start_info)
{
	say("imgtool's bare guest\n");
	stream_start((const char *)start_info[6]);
	for (;;) {
		stream_poll();
		agent_poll();
		asm volatile("pause");
	}
}
