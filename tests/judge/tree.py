#!/usr/bin/env python3
"""An independent judge: does a mounted image hold what its layers say?

    tree.py MOUNTPOINT LAYER...        layers from the bottom up: tars, perhaps .gz or .zst
        [--ignore PATH]...             paths that the builder adds
        [--any-time]                   times may differ

It shares no code with imgtool: Python's tarfile reads the layers, the rules of the OCI image
specification are applied bottom-up to a dictionary, and the kernel reads the image. Prints every
difference and a summary; exit code 1 where there is any.
"""

import argparse
import errno
import hashlib
import os
import stat
import subprocess
import sys
import tarfile
from decimal import Decimal

BLOCK = 4096
ZEROS = bytes(BLOCK)


def open_layer(path):
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"\x28\xb5\x2f\xfd":
        return subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE).stdout
    if magic[:2] == b"\x1f\x8b":
        return subprocess.Popen(["gzip", "-dc", path], stdout=subprocess.PIPE).stdout
    return open(path, "rb")


def raw(text):
    return text.encode("utf-8", "surrogateescape")


def normal(path):
    return b"/".join(part for part in raw(path).split(b"/") if part not in (b"", b"."))


def nanoseconds(member):
    value = member.pax_headers.get("mtime")
    return int(Decimal(value) * 10**9 // 1) if value else int(member.mtime) * 10**9


def digest_of(content, extents):
    """Blocks that are not all zeros and how many: what lies between `extents` is not looked at."""
    digest, count, done = hashlib.sha256(), 0, 0
    for start, length in extents:
        place = max(start // BLOCK * BLOCK, done)
        end = done = max(done, -(-(start + length) // BLOCK) * BLOCK)
        content.seek(place)
        while place < end and (piece := content.read(min(end - place, 1 << 20))):
            for at in range(0, len(piece), BLOCK):
                block = piece[at:at + BLOCK].ljust(BLOCK, b"\0")
                if block != ZEROS:
                    digest.update(b"%d " % (place + at) + block)
                    count += 1
            place += len(piece)
    return digest.hexdigest(), count


def extents_of(descriptor, size):
    place = 0
    while place < size:
        try:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        place = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, place - start


def node_of(member, archive):
    xattrs = {
        raw(key[len("SCHILY.xattr."):]): raw(value)
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    node = {
        "mode": member.mode & 0o7777,
        "uid": member.uid,
        "gid": member.gid,
        "mtime": nanoseconds(member),
        "xattrs": xattrs,
        "layer": None,
    }
    if member.isdir():
        node["type"] = "directory"
    elif member.issym():
        node["type"], node["target"] = "symlink", raw(member.linkname)
    elif member.ischr() or member.isblk():
        node["type"] = "char" if member.ischr() else "block"
        node["device"] = (member.devmajor, member.devminor)
    elif member.isfifo():
        node["type"] = "fifo"
    elif member.isreg():
        node["type"], node["size"] = "file", member.size
        with archive.extractfile(member) as content:
            extents = member.sparse if member.issparse() else [(0, member.size)]
            # The raw file: a buffered one does not seek in a stream, not even forwards.
            node["digest"], node["blocks"] = digest_of(content.raw, extents)
    else:
        sys.exit(f"{member.name}: the judge does not know type {member.type!r}")
    return node


def parents(path):
    parts = path.split(b"/")
    return [b"/".join(parts[:i]) for i in range(1, len(parts))]


def remove(tree, path):
    for below in [p for p in tree if p == path or p.startswith(path + b"/")]:
        del tree[below]


def resolve_parent(tree, path):
    """Follows symlinks of lower layers in the directories of `path`."""
    for _ in range(40):
        for parent in parents(path):
            node = tree.get(parent)
            if node and node["type"] == "symlink":
                base = b"" if node["target"].startswith(b"/") else os.path.dirname(parent)
                target = os.path.normpath(b"/" + base + b"/" + node["target"])
                path = target.lstrip(b"/") + path[len(parent):]
                path = path.lstrip(b"/")
                break
        else:
            return path
    sys.exit(f"{path}: a loop of symlinks")


def apply_layer(tree, path):
    entries, whiteouts, opaque = [], [], []
    with tarfile.open(fileobj=open_layer(path), mode="r|") as archive:
        for member in archive:
            name = normal(member.name)
            base = os.path.basename(name)
            if base == b".wh..wh..opq":
                opaque.append(os.path.dirname(name))
            elif base.startswith(b".wh..wh."):
                pass
            elif base.startswith(b".wh."):
                whiteouts.append(os.path.join(os.path.dirname(name), base[4:]))
            elif member.islnk():
                entries.append((name, normal(member.linkname), None))
            else:
                entries.append((name, None, node_of(member, archive)))
    for hidden in whiteouts:
        remove(tree, resolve_parent(tree, hidden))
    for directory in opaque:
        prefix = directory + b"/" if directory else b""
        for below in [p for p in tree if p and p.startswith(prefix)]:
            del tree[below]
    late = []
    for name, target, node in entries:
        name = resolve_parent(tree, name)
        if target is not None and target not in tree:
            late.append((name, target))
            continue
        put(tree, name, tree[target] if target is not None else node)
    for name, target in late:
        put(tree, name, tree[target])


def put(tree, name, node):
    for parent in parents(name):
        if parent not in tree:
            tree[parent] = {"type": "directory", "mode": 0o755, "uid": 0, "gid": 0,
                            "mtime": None, "xattrs": {}, "layer": None}
    there = tree.get(name)
    if there and not (there["type"] == "directory" and node["type"] == "directory"):
        remove(tree, name)
    tree[name] = node


def look(root, name):
    path = os.path.join(root, name)
    status = os.lstat(path)
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
             stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFREG: "file"}
    node = {
        "type": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime_ns,
        "xattrs": {
            raw(key): os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        },
    }
    if node["type"] == "symlink":
        node["target"] = os.readlink(path)
    elif node["type"] in ("char", "block"):
        node["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif node["type"] == "file":
        node["size"] = status.st_size
        with open(path, "rb") as content:
            extents = extents_of(content.fileno(), status.st_size)
            node["digest"], node["blocks"] = digest_of(content, extents)
        # Zeros take no room: besides data there may be extent and attribute blocks.
        if status.st_blocks * 512 > (node["blocks"] * 102 // 100 + 2) * BLOCK:
            node["blocks"] = f"{node['blocks']}, but {status.st_blocks} sectors are taken"
    return node, (status.st_ino, status.st_nlink)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("mountpoint", type=os.fsencode)
    arguments.add_argument("layers", nargs="+")
    arguments.add_argument("--ignore", action="append", default=[], type=os.fsencode)
    # Times after this many seconds are this many seconds.
    arguments.add_argument("--epoch", type=int)
    arguments.add_argument("--any-time", action="store_true")
    options = arguments.parse_args()

    expected = {b"": None}
    for layer in options.layers:
        apply_layer(expected, layer)
    found = {}
    for directory, directories, files in os.walk(options.mountpoint):
        inside = os.path.relpath(directory, options.mountpoint)
        prefix = b"" if inside == b"." else inside + b"/"
        for name in directories + files:
            found[prefix + name] = None
    found[b""] = None

    differences = 0

    def differ(text):
        nonlocal differences
        differences += 1
        if differences <= 50:
            print(text)

    ignored = set(options.ignore)
    for name in sorted(found.keys() - expected.keys() - ignored):
        differ(f"{name!r}: is in the image only")
    for name in sorted(expected.keys() - found.keys()):
        differ(f"{name!r}: is in the layers only")
    inodes, names = {}, {}
    for name in sorted(expected.keys() & found.keys()):
        want = expected[name]
        if want is None:
            continue
        got, (inode, links) = look(options.mountpoint, name)
        for key in want:
            value = want[key]
            if key == "layer" or (key == "mtime" and (value is None or options.any_time)):
                continue
            if key == "mtime" and options.epoch is not None:
                value = min(value, options.epoch * 10**9)
            if got.get(key) != value:
                differ(f"{name!r}: {key} is {got.get(key)!r}, the layers say {value!r}")
        if want["type"] != "directory":
            # Hard links: one object in the dictionary is one inode in the image.
            names.setdefault(id(want), []).append((name, inode, links))
            inodes.setdefault(inode, set()).add(id(want))
    for group in names.values():
        if len({inode for _, inode, _ in group}) != 1 or group[0][2] != len(group):
            differ(f"{group[0][0]!r}: {len(group)} names, the image has {group[0][2]} links")
    for objects in inodes.values():
        if len(objects) != 1:
            differ("one inode in the image is several files in the layers")
    print(f"{len(expected)} entries compared, {differences} differences")
    sys.exit(1 if differences else 0)


main()
