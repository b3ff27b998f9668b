#!/usr/bin/env python3
"""Runs packing and unpacking side by side with zstd, tar and sha256sum. See tests/bench/pack.

    packing.py DIRECTORY [--rounds N] [--levels]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

from timed import Run

HERE = os.path.dirname(os.path.abspath(__file__))
RELEASE = os.path.join(HERE, "../../target/release")
LEVEL, FRAME_KIB = 6, 384  # Those of builder/src/pack.rs.
# Issue 5, "What it must show".
WALL_TO_ZSTD, BYTES_TO_ZSTD, REUSED = 1.0, 1.08, 0.80


def say(text):
    print("bench:", text, file=sys.stderr, flush=True)


def flatten(source, image):
    """The image's path, and where its regions begin."""
    notes = image + ".json"
    if not os.path.exists(notes):
        say(f"flattening {source}")
        command = [f"{RELEASE}/imgtool", "--json", "flatten", source, "-o", image]
        made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        with open(notes, "w") as file:
            json.dump(made["seams"], file)
    with open(notes) as file:
        return image, ",".join(map(str, json.load(file)))


def packer(work, *arguments):
    return [os.path.join(work, "cargo/release/packer"), *map(str, arguments)]


def alternate(ways, rounds, prepare):
    """Every way in turn, every other round backwards: what ran before leaves its mark."""
    runs = {name: [] for name in ways}
    for number in range(rounds):
        for name, command in list(ways.items())[::-1 if number % 2 else 1]:
            prepare()
            runs[name].append(Run(command))
    return runs


def table(title, runs, base, sizes=None):
    by = {name: [statistics.median(getattr(run, key) for run in done)
                 for key in ("wall", "cpu", "rss")] for name, done in runs.items()}
    print(f"{title:<24} {'wall s':>7} {'CPU s':>7} {'RSS MiB':>8} {'wall/' + base:>12}"
          f" {'CPU/' + base:>12} {'bytes':>12} {'bytes/' + base:>12}")
    for name, (wall, cpu, rss) in by.items():
        size = sizes[name] if sizes else 0
        print(f"  {name:<22} {wall:7.2f} {cpu:7.2f} {rss:8.0f} {wall / by[base][0]:12.2f}"
              f" {cpu / by[base][1]:12.2f} {size or '-':>12}"
              f" {size / sizes[base] if sizes else 0:12.3f}")
    print()
    return by


def verdict(what, value, limit, most=True):
    right = value <= limit if most else value >= limit
    word = "at most" if most else "at least"
    return f"{'ok   ' if right else 'SHORT'} {what} {value:.3f}, {word} {limit:g}"


def measure(work, rounds):
    image, seams = flatten(f"oci-layout:{work}/layers:bench", f"{work}/layers.ext4")
    bundle, plain, out = f"{work}/layers.tar.zst", f"{work}/layers.zst", f"{work}/unpacked"
    tar = f"{work}/plain.tar.zst"

    def nothing():
        return None

    runs = alternate({
        "zstd": ["zstd", "-T0", f"-{LEVEL}", "-qf", image, "-o", plain],
        "pack": packer(work, "pack", image, bundle, LEVEL, FRAME_KIB, seams),
    }, rounds, nothing)
    sizes = {"zstd": os.path.getsize(plain), "pack": os.path.getsize(bundle)}
    frames = int(runs["pack"][0].text.split()[1])
    by = table(f"pack {os.path.getsize(image)} bytes", runs, "zstd", sizes)
    print(f"{frames} frames, {os.path.getsize(image) // frames >> 10} KiB on average\n")
    verdicts = [
        verdict("pack: wall against zstd -T0", by["pack"][0] / by["zstd"][0], WALL_TO_ZSTD),
        verdict("pack: bytes against zstd -T0", sizes["pack"] / sizes["zstd"], BYTES_TO_ZSTD),
    ]

    def empty():
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out)

    # The same files in one frame, as whoever packs by hand has them.
    empty()
    shell = f"cd {out} && zstd -dcq {bundle} | tar x && tar c * | zstd -q -{LEVEL} -T0 -f -o {tar}"
    subprocess.run(["sh", "-c", shell], check=True)
    plainly = f"zstd -dcq {tar} | tar x -C {out} && sha256sum {out}/rootfs.ext4"
    imported = f"IMGRUN_HOME={out} {RELEASE}/imgrun -q import {bundle}"
    runs = alternate({
        "tar+sha256sum": ["sh", "-c", plainly],
        "unpack": packer(work, "unpack", bundle, out),
        "tar+sha256sum, synced": ["sh", "-c", f"{plainly} && sync {out}/rootfs.ext4"],
        "imgrun import": ["sh", "-c", imported],
    }, rounds, empty)
    table("unpack", runs, "tar+sha256sum")
    shutil.rmtree(out)

    packed = []
    for name in ("small", "small-more"):
        image, seams = flatten(f"tarball:{work}/{name}.tar", f"{work}/{name}.ext4")
        packed.append(f"{work}/{name}.tar.zst")
        Run(packer(work, "pack", image, packed[-1], LEVEL, FRAME_KIB, seams))
    # What nobody can avoid: files that the old version has not got, compressed.
    all_bytes, had = map(int, Run(packer(work, "reuse", *packed)).text.split())
    print(f"one package more: {all_bytes} bytes of frames, {had} of them in the version before")
    verdicts.append(verdict("reuse: bytes of frames used again", had / all_bytes, REUSED, False))
    print("\n".join(["", "What issue 5 asks for:", *verdicts]))


def levels(work):
    """One table: bytes and CPU by level and frame length."""
    image, seams = flatten(f"tarball:{work}/small.tar", f"{work}/small.ext4")
    out = f"{work}/levels.zst"
    print(f"{'level':>5} {'frames':>10} {'bytes':>12} {'pack CPU s':>11} {'unpack CPU s':>13}"
          f" {'reused':>7}")
    more, more_seams = flatten(f"tarball:{work}/small-more.tar", f"{work}/small-more.ext4")
    next_out, unpacked = f"{work}/levels-more.zst", f"{work}/unpacked"
    combinations = [(level, FRAME_KIB) for level in (1, 3, 5, 7, 9, 12, 15, 19)]
    combinations += [(LEVEL, kib) for kib in (64, 128, 256, 512, 1024)]
    for level, kib in combinations:
        run = Run(packer(work, "pack", image, out, level, kib, seams))
        Run(packer(work, "pack", more, next_out, level, kib, more_seams))
        shutil.rmtree(unpacked, ignore_errors=True)
        os.makedirs(unpacked)
        back = Run(packer(work, "unpack", out, unpacked))
        shutil.rmtree(unpacked)
        all_bytes, had = map(int, Run(packer(work, "reuse", out, next_out)).text.split())
        print(f"{level:>5} {kib:>6} KiB {os.path.getsize(out):>12} {run.cpu:11.2f}"
              f" {back.cpu:13.2f} {had / all_bytes:7.1%}", flush=True)
    for level in (3, 9, 19):
        run = Run(["zstd", "-T0", f"-{level}", "-qf", image, "-o", out])
        print(f"{level:>5} {'zstd -T0':>10} {os.path.getsize(out):>12} {run.cpu:11.2f}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory", type=os.path.abspath)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--levels", action="store_true")
    options = arguments.parse_args()
    levels(options.directory) if options.levels else measure(options.directory, options.rounds)


main()
