#!/usr/bin/env python3
"""Reads a file in zstd's seekable format on standard input and writes what it holds, frame by frame.

Every frame is found by the seek table at the end and decompressed by itself; the skippable ones
must count as empty. See zstd's contrib/seekable_format/zstd_seekable_compression_format.md.
"""

import struct
import sys

import zstandard

SKIPPABLE, SKIPPABLE_MASK = 0x184D2A50, 0xFFFFFFF0
SEEK_TABLE, FOOTER = 0x184D2A5E, 0x8F92EAB1


def main():
    data = sys.stdin.buffer.read()
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    assert magic == FOOTER and descriptor == 0
    start = len(data) - 8 - 8 * count - 9
    assert struct.unpack_from("<II", data, start) == (SEEK_TABLE, 8 * count + 9)
    at = 0
    for packed, raw in struct.iter_unpack("<II", data[start + 8:-9]):
        frame = data[at:at + packed]
        at += packed
        first, = struct.unpack_from("<I", frame)
        if first & SKIPPABLE_MASK == SKIPPABLE:
            assert raw == 0 and struct.unpack_from("<I", frame, 4)[0] == packed - 8
            continue
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.content_size == raw and parameters.window_size <= 8 << 20
        decoder = zstandard.ZstdDecompressor().decompressobj()
        content = decoder.decompress(frame)
        assert len(content) == raw and decoder.unused_data == b""
        sys.stdout.buffer.write(content)
    assert at == start


main()
