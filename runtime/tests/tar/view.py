"""Prints how Python reads each archive: see readers.rs. With --slice, cuts an archive instead.

    view.py ARCHIVE...
    view.py --slice ARCHIVE DIRECTORY    each entry as an archive of its own
"""

import hashlib
import os
import stat
import sys
import tarfile

LETTERS = {b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
CONTENT_BYTES_MAX = 1 << 30


def shown(text):
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(b) if 32 <= b < 127 and b not in b'\\"' else f"\\{b:03o}" for b in raw)


def view(path):
    lines, digest = [], hashlib.sha256()
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            letter = "d" if member.isdir() else LETTERS.get(member.type, "-")
            size, link = 0, ""
            if letter in "bc":
                size = f"{member.devmajor},{member.devminor}"
            elif letter == "-":
                size = member.size
                if size <= CONTENT_BYTES_MAX:
                    digest.update(archive.extractfile(member).read())
            if letter in "hl":
                link = (" link to " if letter == "h" else " -> ") + shown(member.linkname)
            mode = stat.filemode(member.mode & 0o7777)[1:]
            owners = f"{member.uid}/{member.gid}"
            lines.append(f"{letter}{mode} {owners} {size} {shown(member.name)}{link}")
    return lines + ["digest " + digest.hexdigest()]


def cut(path, directory):
    with tarfile.open(path, encoding="iso8859-1") as archive:
        starts = [member.offset for member in archive]
    whole = open(path, "rb").read()
    for i, (start, end) in enumerate(zip(starts, starts[1:] + [len(whole)])):
        with open(os.path.join(directory, f"{i}-sparse"), "wb") as piece:
            piece.write(whole[start:end].rstrip(b"\0") if end == len(whole) else whole[start:end])


if sys.argv[1] == "--slice":
    cut(*sys.argv[2:])
else:
    for archive in sys.argv[1:]:
        try:
            print("\n".join(view(archive)))
        except Exception as error:  # some archives make it raise what it should not
            print(ascii(archive), repr(error)[:100], file=sys.stderr)
            print("refused")
        print(".")
