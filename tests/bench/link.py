#!/usr/bin/env python3
"""A slow link before a server: every byte takes its time, over all connections together.

    link.py PORT SERVER_PORT MBIT_A_SECOND ROUND_TRIP_MS

A connection is opened after a round trip, what goes either way arrives half of one later, and what
comes back shares the link's rate. TCP's slow start is not part of it: loopback has none.
"""

import asyncio
import sys

CHUNK_BYTES = 32 << 10
# What waits in the link: more would hide from the server that it is slow.
QUEUE_S = 0.05


class Link:
    def __init__(self, server, mbit, round_trip_ms):
        self.server, self.rate = server, mbit * 1e6 / 8
        self.half = round_trip_ms / 2000
        self.free = 0.0

    async def connection(self, reader, writer):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2 * self.half)
        try:
            there = await asyncio.open_connection("127.0.0.1", self.server)
            await asyncio.gather(self.carry(loop, reader, there[1], False),
                                 self.carry(loop, there[0], writer, True))
        except OSError:
            pass
        writer.close()

    async def carry(self, loop, reader, writer, is_slow):
        arrivals = asyncio.Queue()
        task = loop.create_task(self.deliver(loop, arrivals, writer))
        while True:
            try:
                chunk = await reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""
            at = loop.time()
            if is_slow and chunk:
                self.free = at = max(at, self.free) + len(chunk) / self.rate
            arrivals.put_nowait((at + self.half, chunk))
            if not chunk:
                break
            if at - loop.time() > QUEUE_S:
                await asyncio.sleep(at - loop.time() - QUEUE_S)
        await task

    async def deliver(self, loop, arrivals, writer):
        while True:
            at, chunk = await arrivals.get()
            await asyncio.sleep(max(0, at - loop.time()))
            try:
                if not chunk:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(chunk)
                await writer.drain()
            except OSError:
                return


async def main():
    port, server, mbit, round_trip = sys.argv[1:]
    link = Link(int(server), float(mbit), float(round_trip))
    async with await asyncio.start_server(link.connection, "127.0.0.1", int(port)) as listening:
        await listening.serve_forever()


asyncio.run(main())
