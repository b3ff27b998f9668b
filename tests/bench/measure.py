#!/usr/bin/env python3
"""Runs every way on every input side by side and prints one table. See tests/bench/flatten.

    measure.py DIRECTORY [--rounds N] [--input NAME]... [--way NAME]...

CPU seconds are user and system time of the process and its children; kernel threads (those of a
loop device) are not in them. Peak memory is that of the largest process.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
IMGTOOL = os.path.join(HERE, "../../target/release/imgtool")
JUDGE = os.path.join(HERE, "../judge/tree.py")
# Name: MiB and inodes that peers must be told.
INPUTS = {
    "small-gzip": (1024, 30_000),
    "small-zstd": (1024, 30_000),
    "layers": (4096, 200_000),
    "tiny": (4096, 250_000),
}
PEERS = ["mkext4", "arcbox", "oci2rootfs", "tar2ext4", "mke2fs-tar", "mount", "umoci", "debugfs"]
WAYS = ["floor", "floor-unsynced", "imgtool", "tar-tf", *PEERS]
ONE_LAYER = ["mke2fs-tar", "tar2ext4"]
# A way slower than this takes part in this many rounds only.
SLOW_SECONDS, SLOW_ROUNDS = 20, 2
RUN_SECONDS_MAX = 900
# Issue 3, "What it must show".
WALL_TO_FLOOR, CPU_TO_FLOOR, RSS_MIB, TAR_RATE = 1.2, 1.25, 96, 2
CPU_TO_PEERS = {"debugfs": 15, "umoci": 12}


class Run:
    def __init__(self, command, environment=None):
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        text = process.stderr.read().decode(errors="replace").strip()
        _, status, usage = os.wait4(process.pid, 0)
        self.wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        self.error = None
        if process.returncode != 0:
            last = text.splitlines()[-1] if text else ""
            self.error = f"exit code {process.returncode}: {last}"
        self.cpu = usage.ru_utime + usage.ru_stime
        self.user = usage.ru_utime
        self.rss = usage.ru_maxrss / 1024


class Input:
    def __init__(self, directory, name):
        self.name = name
        self.layout = os.path.join(directory, name)
        self.scratch = os.path.join(directory, "scratch")
        self.out = os.path.join(self.scratch, "out.ext4")
        with open(self.layout + ".layers") as file:
            self.layers = file.read().split("\n")[:-1]

    def command(self, way):
        if way.startswith("floor"):
            unsynced = ["--no-sync"] if way == "floor-unsynced" else []
            program = os.path.join(HERE, "../../target/bench/cargo/release/floor")
            return [program, *unsynced, self.out, *self.layers]
        if way == "imgtool":
            source = f"oci-layout:{self.layout}:bench"
            return [IMGTOOL, "--quiet", "flatten", source, "-o", self.out]
        if way == "tar-tf":
            return ["tar", "tf", self.layers[0]]
        mib, inodes = INPUTS[self.name]
        peer = os.path.join(HERE, "peer")
        return [peer, way, self.layout, self.out, self.scratch, str(mib), str(inodes)]

    def run(self, way):
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.makedirs(self.scratch)
        os.sync()  # What others left unwritten is not this one's.
        return Run(["timeout", str(RUN_SECONDS_MAX), *self.command(way)])

    def wrong(self, way):
        """What e2fsck or the judge hold against the image, or None."""
        fsck = subprocess.run(["e2fsck", "-fn", self.out], capture_output=True, text=True)
        if fsck.returncode != 0:
            lines = [line for line in fsck.stdout.splitlines() if line and "Pass" not in line]
            return f"e2fsck: {lines[0] if lines else fsck.returncode}"
        point = os.path.join(self.scratch, "mounted")
        os.makedirs(point)
        subprocess.run(["mount", "-o", "ro,loop", self.out, point], check=True)
        try:
            # Whoever unpacks to a directory first loses some times; it is not held against them.
            lenient = [] if way == "imgtool" else ["--any-time", "--ignore", "lost+found"]
            judge = subprocess.run(["python3", JUDGE, point, *self.layers, *lenient],
                                   capture_output=True, text=True)
        finally:
            subprocess.run(["umount", point], check=True)
        if judge.returncode == 0:
            return None
        lines = (judge.stdout + judge.stderr).strip().splitlines()
        return f"{lines[-1]}; {lines[0]}"[:200]


class Row:
    def __init__(self, way, runs, right):
        self.way = way
        self.right = right
        self.cpu = statistics.median(run.cpu for run in runs)
        self.user = statistics.median(run.user for run in runs)
        self.wall = statistics.median(run.wall for run in runs)
        self.rss = max(run.rss for run in runs)
        self.runs = len(runs)


def measure(given, ways, rounds, skipped):
    """Judges each way once, then times all of them in turn: rows, and what was wrong.

    Peers with a wrong result are timed, too, for what it is worth; one that fails is left out."""
    runs, wrong = {}, {}
    for way in ways:
        if way in skipped:
            continue
        first = given.run(way)
        say(f"{given.name}: {way}: {first.cpu:.2f} s of CPU")
        if first.error is not None:
            wrong[way] = first.error
        elif not way.startswith("floor") and way != "tar-tf":
            why = given.wrong(way)
            if why:
                wrong[way] = f"a wrong result: {why}"
        if way in wrong:
            say(f"SKIPPED {way} on {given.name}: {wrong[way]}")
        if first.error is None:
            runs[way] = [first] if first.cpu > SLOW_SECONDS else []
    for number in range(rounds):
        # Every other round backwards: what ran before leaves its mark on the page cache.
        for way, done in list(runs.items())[::-1 if number % 2 else 1]:
            if done and done[0].cpu > SLOW_SECONDS and len(done) >= SLOW_ROUNDS:
                continue
            run = given.run(way)
            if run.error:
                sys.exit(f"bench: {way} on {given.name}, round {number + 1}: {run.error}")
            done.append(run)
    return [Row(way, done, way not in wrong) for way, done in runs.items()], wrong


def name_of(row):
    return row.way if row.right else f"({row.way})"


def table(name, rows):
    by = {row.way: row for row in rows}
    floor, ours = by.get("floor"), by.get("imgtool")
    lines = [f"{name:<16} {'CPU s':>7} {'user s':>7} {'wall s':>7} {'RSS MiB':>8} {'CPU/floor':>10}"
             f" {'wall/floor':>10} {'CPU/ours':>9} {'wall/ours':>9} {'runs':>4}"]
    for row in rows:
        def ratio(key, base):
            return f"{getattr(row, key) / getattr(base, key):.2f}" if base else "-"
        lines.append(
            f"  {name_of(row):<14} {row.cpu:7.2f} {row.user:7.2f} {row.wall:7.2f} {row.rss:8.0f}"
            f" {ratio('cpu', floor):>10} {ratio('wall', floor):>10}"
            f" {ratio('cpu', ours):>9} {ratio('wall', ours):>9} {row.runs:>4}")
    return lines


def verdicts(name, rows):
    """Issue 3's numbers, each with what was measured."""
    by = {row.way: row for row in rows}
    floor, ours = by.get("floor"), by.get("imgtool")
    if not ours:
        return
    def verdict(what, value, limit, most=True):
        right = value <= limit if most else value >= limit
        word = "at most" if most else "at least"
        return f"{'ok   ' if right else 'SHORT'} {name}: {what} {value:.2f}, {word} {limit:g}"
    if floor and name != "tiny":
        yield verdict("CPU against the floor", ours.cpu / floor.cpu, CPU_TO_FLOOR)
        yield verdict("wall against the floor", ours.wall / floor.wall, WALL_TO_FLOOR)
    if name == "layers":
        yield verdict("peak memory in MiB", ours.rss, RSS_MIB)
    if name == "tiny" and "tar-tf" in by:
        yield verdict("wall against tar tf", ours.wall / by["tar-tf"].wall, TAR_RATE)
        yield verdict("CPU against tar tf", ours.cpu / by["tar-tf"].cpu, TAR_RATE)
    for peer in (by[peer] for peer in PEERS if peer in by and by[peer].right):
        least = CPU_TO_PEERS.get(peer.way, 1)
        yield verdict(f"CPU of {peer.way} against ours", peer.cpu / ours.cpu, least, most=False)
        yield verdict(f"wall of {peer.way} against ours", peer.wall / ours.wall, 1, most=False)


def say(text):
    print("bench:", text, file=sys.stderr, flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory", type=os.path.abspath)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--input", action="append", choices=INPUTS)
    arguments.add_argument("--way", action="append", choices=WAYS)
    options = arguments.parse_args()
    with open(os.path.join(options.directory, "skipped")) as file:
        skipped = dict(line.rstrip("\n").split("\t", 1) for line in file)
    lines, judged, failed = [], [], [f"{way}: {why}" for way, why in skipped.items()]
    for name in options.input or INPUTS:
        given = Input(options.directory, name)
        ways = [way for way in options.way or WAYS if way != "tar-tf" or name == "tiny"]
        for way in ONE_LAYER if len(given.layers) > 1 else []:
            if way in ways and way not in skipped:
                ways.remove(way)
                failed.append(f"{way} on {name}: it takes one layer")
        rows, wrong = measure(given, ways, options.rounds, skipped)
        failed += [f"{way} on {name}: {why}" for way, why in wrong.items()]
        lines += [*table(name, rows), ""]
        judged += verdicts(name, rows)
        print("\n".join(table(name, rows)), file=sys.stderr, flush=True)
        if "imgtool" in wrong:
            judged.append(f"SHORT {name}: our own result is wrong")
    shutil.rmtree(os.path.join(options.directory, "scratch"), ignore_errors=True)
    print("Medians of runs side by side. The floor decodes on one thread, writes on the other and")
    print("syncs as imgtool does (peers do not); tar-tf lists the compressed layer. Memory below")
    print("about 15 MiB is the measuring program's own. In brackets: a wrong result that does not")
    print("count below.\n")
    print("\n".join(lines))
    print("\n".join("SKIPPED " + text for text in failed) or "Nothing was skipped.")
    print("\n".join(["", "What issue 3 asks for:", *judged]))


main()
