/*
 * The guest's end of the agent protocol (crates/agent/src/lib.rs), written anew from its description.
 *
 * Commands:	cat		what it reads
 *		echo WORD...	the words
 *		count		1, then 2: how often it was asked, which memory alone keeps
 *		exit N		nothing; returns N
 *		true		nothing
 *		wait		says "waiting"; lasts until a signal comes
 */
#include "guest.h"

enum {
	CHANNELS = 4, WINDOW = 256 * 1024, PAYLOAD_MAX = 65536, HEADER = 10, BODY_MAX = 1024,
	HELLO = 1, ACK, PING, PONG, SHUTDOWN, ERROR,
	EXEC = 16, STARTED, STDIN, STDOUT, STDERR, CREDIT, SIGNAL, RESIZE, EXIT,
	NOT_FOUND = 1, TOO_MANY = 5,
};

enum program { CAT = 1, ECHO, COUNT, EXIT_WITH, TRUE, WAIT };

struct channel {
	u32 id;
	enum program program;
	u32 credit;		/* what the host takes of our output */
	u32 ended;		/* the end of the input has come, or there is none */
	u32 code;
	u32 first, filled;	/* in output */
	u8 output[WINDOW];
};

static const u8 hello_magic[8] = "\xF5imgHEL\xFA", ack_magic[8] = "\xF5imgACK\xFA";
static struct channel channels[CHANNELS];
static u8 frame[HEADER + PAYLOAD_MAX];
static u32 have, in_session, matched, counted;

static u32 get32(const u8 *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (u32)at[3] << 24;
}

static u8 *put32(u8 *at, u32 value)
{
	for (int i = 0; i < 4; i++)
		*at++ = value >> 8 * i;
	return at;
}

static u8 *put_field(u8 *at, u8 tag, const void *value, u32 length)
{
	*at++ = tag;
	at = put32(at, length);
	copy(at, value, length);
	return at + length;
}

static void send(u32 channel, u8 kind, const void *payload, u32 length)
{
	u8 header[HEADER] = { 0 };

	put32(header, length);
	put32(header + 4, channel);
	header[8] = kind;
	stream_write(header, HEADER);
	stream_write(payload, length);
}

static void send_field(u32 channel, u8 kind, u8 tag, const void *value, u32 length)
{
	u8 payload[16];

	send(channel, kind, payload, put_field(payload, tag, value, length) - payload);
}

/* The next field of a payload, or NULL behind the last. */
static const u8 *field(const u8 **at, const u8 *end, u8 *tag, u32 *length)
{
	const u8 *value = *at + 5;

	if (end - *at < 5 || (u32)(end - value) < get32(*at + 1))
		return NULL;
	*tag = **at;
	*length = get32(*at + 1);
	*at = value + *length;
	return value;
}

static u32 crc32(const u8 *bytes, u32 length)
{
	u32 crc = ~0u;

	while (length--) {
		crc ^= *bytes++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (0xEDB88320 & -(crc & 1));
	}
	return ~crc;
}

/* Answers a greeting's body: the nonce, the protocol 1, a version, and that we are process 1. */
static void greet(const u8 *body, u32 length)
{
	static const u8 one[2] = { 1, 0 };
	const u8 *at = body, *value, *nonce = NULL;
	u8 tag, answer[160] = { 0 }, *out = answer + 14;
	u32 bytes;

	while ((value = field(&at, body + length, &tag, &bytes)))
		if (tag == 1 && bytes == 16)
			nonce = value;
	if (!nonce)
		return;
	out = put_field(out, 1, nonce, 16);
	out = put_field(out, 5, one, 2);
	out = put_field(out, 2, one, 2);
	out = put_field(out, 3, one, 2);
	out = put_field(out, 6, "bare", 4);
	out = put_field(out, 7, one, 1);
	copy(answer, ack_magic, 8);
	length = out - (answer + 14);
	answer[8] = length;
	put32(answer + 10, crc32(answer + 14, length));
	for (u32 i = 0; i < CHANNELS; i++)
		channels[i].program = 0;
	in_session = 1;
	send(0, ACK, answer, out - answer);
}

static u32 is(const u8 *arg, u32 length, const char *name)
{
	while (length && *name && *arg == (u8)*name)
		arg++, name++, length--;
	return !length && !*name;
}

static void add_output(struct channel *channel, const u8 *bytes, u32 length)
{
	while (length) {
		u32 at = (channel->first + channel->filled) % WINDOW, part = WINDOW - at;

		if (part > length)
			part = length;
		copy(channel->output + at, bytes, part);
		channel->filled += part;
		bytes += part;
		length -= part;
	}
}

static void refuse(u32 id, u8 code)
{
	u8 number[2] = { code, 0 };

	send_field(id, ERROR, 1, number, 2);
}

static void print_count(struct channel *channel)
{
	u8 digits[11];
	u32 at = sizeof digits, number = ++counted;

	digits[--at] = '\n';
	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	add_output(channel, digits + at, sizeof digits - at);
}

static void exec(u32 id, const u8 *payload, u32 length)
{
	static const char *const names[] = { "", "cat", "echo", "count", "exit", "true", "wait" };
	const u8 *at = payload, *value;
	struct channel *channel = NULL;
	u32 bytes, args = 0, pid;
	u8 tag;

	for (u32 i = 0; i < CHANNELS && !channel; i++)
		if (!channels[i].program)
			channel = &channels[i];
	if (!channel)
		return refuse(id, TOO_MANY);
	channel->id = id;
	channel->credit = WINDOW;
	channel->ended = 1;
	channel->code = channel->first = channel->filled = 0;
	while ((value = field(&at, payload + length, &tag, &bytes))) {
		if (tag == 7)
			channel->ended = !value[0];
		if (tag != 1)
			continue;
		if (!args++) {
			for (u32 i = CAT; i <= WAIT; i++)
				if (is(value, bytes, names[i]))
					channel->program = i;
		} else if (channel->program == ECHO) {
			add_output(channel, (const u8 *)" ", args > 2);
			add_output(channel, value, bytes);
		} else if (channel->program == EXIT_WITH) {
			while (bytes--)
				channel->code = channel->code * 10 + *value++ - '0';
		}
	}
	if (!channel->program)
		return refuse(id, NOT_FOUND);
	if (channel->program == ECHO)
		add_output(channel, (const u8 *)"\n", 1);
	if (channel->program == WAIT)
		add_output(channel, (const u8 *)"waiting\n", 8);
	if (channel->program == COUNT)
		print_count(channel);
	pid = 100 + (channel - channels);
	send_field(id, STARTED, 1, &pid, 4);
}

static void end(struct channel *channel, u8 tag, u8 value)
{
	send(channel->id, STDOUT, NULL, 0);
	send(channel->id, STDERR, NULL, 0);
	send_field(channel->id, EXIT, tag, &value, 1);
	channel->program = 0;
}

/* Sends what the host takes, gives credit for it, and ends a command that has no more to do. */
static void run(struct channel *channel)
{
	u32 part = WINDOW - channel->first;

	if (part > channel->filled)
		part = channel->filled;
	if (part > channel->credit)
		part = channel->credit;
	if (part > PAYLOAD_MAX)
		part = PAYLOAD_MAX;
	if (part) {
		send(channel->id, STDOUT, channel->output + channel->first, part);
		channel->first = (channel->first + part) % WINDOW;
		channel->filled -= part;
		channel->credit -= part;
		if (channel->program == CAT && !channel->ended) {
			u8 stdin = STDIN, credit[32], *end = put_field(credit, 1, &stdin, 1);

			end = put_field(end, 2, &part, 4);
			send(channel->id, CREDIT, credit, end - credit);
		}
	}
	if (!channel->filled && channel->program != WAIT && (channel->program != CAT || channel->ended))
		end(channel, 1, channel->code);
}

static void for_channel(struct channel *channel, u8 kind, const u8 *payload, u32 length)
{
	const u8 *at = payload, *value;
	u32 bytes, stream = 0, more = 0;
	u8 tag;

	switch (kind) {
	case STDIN:
		if (!length)
			channel->ended = 1;
		if (channel->program == CAT)
			add_output(channel, payload, length);
		break;
	case CREDIT:
		while ((value = field(&at, payload + length, &tag, &bytes))) {
			stream = tag == 1 ? value[0] : stream;
			more = tag == 2 ? get32(value) : more;
		}
		if (stream == STDOUT)
			channel->credit += more;
		break;
	case SIGNAL:
		if ((value = field(&at, payload + length, &tag, &bytes)))
			end(channel, 2, value[0]);
		break;
	}
}

static void dispatch(u32 channel, u8 kind, const u8 *payload, u32 length)
{
	if (kind == HELLO && length > 14)
		return greet(payload + 14, length - 14);
	if (kind == PING)
		return send(channel, PONG, payload, length);
	if (kind == SHUTDOWN)
		return power_off();
	if (kind == EXEC)
		return exec(channel, payload, length);
	for (u32 i = 0; i < CHANNELS; i++)
		if (channels[i].program && channels[i].id == channel)
			return for_channel(&channels[i], kind, payload, length);
}

/* Looks for a greeting in anything: its magic, then its length, checksum and body. */
static void look(u8 byte)
{
	u32 length;

	if (matched < 8) {
		matched = byte == hello_magic[matched] ? matched + 1 : byte == hello_magic[0];
		have = 0;
		return;
	}
	frame[have++] = byte;
	length = frame[0] | frame[1] << 8;
	if (have < 6 || (length <= BODY_MAX && have < 6 + length))
		return;
	matched = 0;
	have = 0;
	if (length <= BODY_MAX && crc32(frame + 6, length) == get32(frame + 2))
		greet(frame + 6, length);
}

/* Takes up to `wanted` bytes into the frame. */
static u32 fill(u32 wanted)
{
	const u8 *bytes;
	u32 part;

	while (have < wanted && (part = stream_peek(&bytes))) {
		if (part > wanted - have)
			part = wanted - have;
		copy(frame + have, bytes, part);
		have += part;
		stream_taken(part);
	}
	return have >= wanted;
}

void agent_poll(void)
{
	const u8 *bytes;

	for (u32 i = 0; i < CHANNELS; i++)
		if (channels[i].program)
			run(&channels[i]);
	while (!in_session && stream_peek(&bytes)) {
		u8 byte = *bytes;

		stream_taken(1);
		look(byte);
	}
	if (!in_session || !fill(HEADER))
		return;
	if (get32(frame) > PAYLOAD_MAX || frame[9]) {
		in_session = have = 0;
		return;
	}
	if (!fill(HEADER + get32(frame)))
		return;
	have = 0;
	dispatch(get32(frame + 4), frame[8], frame + HEADER, get32(frame));
}
