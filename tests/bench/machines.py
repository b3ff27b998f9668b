#!/usr/bin/env python3
"""What a machine costs beside the least that it could. See tests/bench/machine.

    machines.py DIRECTORY [--rounds N]

Under TCG, one processor, 512 MiB, the micro-6.1 kernel; medians of runs in turn.

- *boot*: the floor is QEMU as `imgrun` starts it with that kernel and a root disk of 4 MiB whose
  init ends the machine. Ours is `imgrun run -q debian-micro -- true`, from its start to its exit.
- *exec*: the floor is a program in the guest that starts another (vfork, execve) and waits for it.
  Ours is the library's `exec` to the end of the command: two programs, one that makes a single
  system call, and Debian's /bin/true, which is linked dynamically.
- *stdout*: the floor is an init that writes to the virtio-serial port, 64 KiB at a time, and a host
  that reads. Ours is the library reading the standard output of a command that writes the same.
  It comes through a pipe in the guest, which alone is slower than the transport.
- *snapshot*: how long a machine of 256 MiB stands still, and all of `imgrun snapshot`; there is no
  floor.
- *copy*: from the start of `imgrun run --from` to the first byte that a command in it writes, and
  `imgrun fork -n 8` to its end, with the memory that a copy has for itself (PSS).
"""

import argparse
import glob
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.join(HERE, "../../target")
IMGRUN = f"{TARGET}/release/imgrun"
EXECS = f"{TARGET}/bench/cargo/release/execs"
IMAGE = "debian-micro"
MIB = 100
EXEC_ROUNDS = 300
SECONDS_MAX = 120
# Issue 7, "What it must show".
BOOT_RATIO, EXEC_P50_MS, EXEC_P99_MS, STDOUT_SHARE = 1.5, 5, 25, 0.6
PAUSE_MS, COPY_MS, COPIES, COPY_MIB = 20, 150, 8, 256


def say(text):
    print("bench:", text, file=sys.stderr, flush=True)


class Run:
    """A command to its end: wall and processor seconds, children's included."""

    def __init__(self, command, **options):
        started = time.monotonic()
        process = subprocess.Popen(["timeout", str(SECONDS_MAX), *command],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, **options)
        self.text = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        self.wall = time.monotonic() - started
        self.cpu = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench: {command} ends with {process.returncode}:\n{self.text[-3000:]}")


class Floor:
    """A guest that has nothing but a kernel and guest/floor.c as its init."""

    def __init__(self, directory, kernel):
        self.kernel, self.disk = kernel, os.path.join(directory, "floor.ext4")
        root = os.path.join(directory, "root")
        os.makedirs(f"{root}/dev", exist_ok=True)
        for name in ("floor", "nothing"):
            libc = [] if name == "floor" else ["-nostdlib"]
            subprocess.run(["gcc", "-O2", "-static", *libc, "-o", f"{root}/{name}",
                            f"{HERE}/guest/{name}.c"], check=True)
        self.programs = [f"{root}/nothing", f"{root}/floor"]
        if os.path.exists(self.disk):
            os.unlink(self.disk)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, self.disk,
                        "4M"], check=True, stdout=subprocess.DEVNULL)
        mhz = re.search(r"cpu MHz\s*: ([\d.]+)", open("/proc/cpuinfo").read())
        self.tsc_khz = round(float(mhz[1]) * 1000)

    def qemu(self, words, port):
        line = ["root=/dev/vda", "ro", "rootfstype=ext4", "init=/floor", "console=ttyS0", "quiet",
                "panic=-1", "reboot=t", "no_timer_check", "nolapic_timer", "cryptomgr.notests",
                f"tsc_early_khz={self.tsc_khz}", "tsc=nowatchdog", *words]
        disk = f"raw,node-name=root,read-only=on,file.driver=file,file.filename={self.disk}"
        return ["qemu-system-x86_64", "-object",
                "memory-backend-memfd,id=memory,share=on,size=512M", "-M",
                "microvm,acpi=off,pcie=off,usb=off,graphics=off,memory-backend=memory",
                "-accel", "tcg", "-cpu", "max,-erms,-fsrm", "-smp", "1", "-m", "512M",
                "-kernel", self.kernel, "-append", " ".join(line), "-blockdev", disk,
                "-device", "virtio-blk-device,drive=root",
                "-chardev", f"socket,id=agent,fd={port}",
                "-device", "virtio-serial-device,max_ports=2",
                "-device", "virtserialport,chardev=agent,name=floor",
                "-serial", "stdio", "-display", "none", "-nodefaults", "-no-user-config",
                "-no-reboot"]

    def off(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return Run(self.qemu([], theirs.fileno()), pass_fds=[theirs.fileno()])

    def write(self):
        """MiB a second that a guest's writes reach the host with."""
        ours, theirs = socket.socketpair()
        command = self.qemu([f"write={MIB}"], theirs.fileno())
        process = subprocess.Popen(["timeout", str(SECONDS_MAX), *command],
                                   pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)
        theirs.close()
        buffer, total, began = bytearray(1 << 20), 0, None
        with ours:
            while total < MIB << 20:
                n = ours.recv_into(buffer)
                began = began or time.monotonic()
                if n == 0:
                    sys.exit(f"bench: the floor's guest ended after {total} bytes")
                total += n
            seconds = time.monotonic() - began
            ours.send(b"!")
            process.wait()
        return MIB / seconds


def numbers(text):
    """Lines of a name and numbers."""
    rows = [line.split() for line in text.splitlines()]
    return {os.path.basename(row[0]): [float(n) for n in row[1:]] for row in rows if row}


def exec_floor(floor):
    """What starting a program costs in the guest itself."""
    script = f"tar x -C / && for p in /nothing /bin/true; do /floor exec {EXEC_ROUNDS} $p; done; /floor pipe {MIB}"
    names = [os.path.basename(path) for path in floor.programs]
    tar = subprocess.run(["tar", "c", "-C", os.path.dirname(floor.programs[0]), *names],
                         check=True, stdout=subprocess.PIPE).stdout
    done = subprocess.run([IMGRUN, "run", "-q", IMAGE, "--", "sh", "-c", script], input=tar,
                          check=True, stdout=subprocess.PIPE).stdout
    return numbers(done.decode())


def imgrun(*arguments):
    return subprocess.run([IMGRUN, *arguments], check=True, stdout=subprocess.PIPE).stdout.decode()


def pss_mib(home, name):
    """What the VMM of a machine has of the host's memory, with its share of what others have, too."""
    pattern = f"qemu-system.*{home}/kept/{name}/"
    pids = subprocess.run(["pgrep", "-f", pattern], stdout=subprocess.PIPE).stdout.split()
    rows = open(f"/proc/{int(pids[0])}/smaps_rollup").read()
    return int(re.search(r"^Pss:\s+(\d+) kB", rows, re.M)[1]) / 1024


def copies(home, rounds):
    """Milliseconds: paused, the whole verb, a copy's first byte; of a fork: all of it, PSS."""
    name = "bench-copies"
    imgrun("run", "-q", "-d", "--memory", str(COPY_MIB), "--name", name, IMAGE)
    # Its disk has something on it, too.
    imgrun("exec", name, "--", "sh", "-c", "head -c 8000000 /dev/urandom >/file; sync")
    pauses, verbs, firsts, forks, shares = [], [], [], [], []
    for _ in range(rounds):
        began = time.monotonic()
        pauses.append(json.loads(imgrun("snapshot", name, "--as", name, "--json"))["pause_ms"])
        verbs.append(1000 * (time.monotonic() - began))
        began = time.monotonic()
        process = subprocess.Popen([IMGRUN, "run", "-q", "--from", name, "--", "echo", "here"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        process.stdout.read(1)
        firsts.append(1000 * (time.monotonic() - began))
        if process.wait() != 0:
            sys.exit("bench: a copy fails")
        imgrun("snapshot", "rm", name)
    for _ in range(3):
        began = time.monotonic()
        names = json.loads(imgrun("fork", name, "-n", str(COPIES), "--json"))["machines"]
        forks.append(1000 * (time.monotonic() - began))
        shares.append(statistics.median(pss_mib(home, copy) for copy in names))
        imgrun("rm", "-f", *names)
    imgrun("rm", "-f", name)
    return [statistics.median(values) for values in (pauses, verbs, firsts, forks, shares)]


def measure(floor, rounds):
    boots, ours, rates = [], [], []
    execs, spawns = [], []
    for number in range(rounds):
        ways = [(boots, floor.off),
                (ours, lambda: Run([IMGRUN, "run", "-q", IMAGE, "--", "true"])),
                (rates, floor.write)]
        for runs, way in ways[::-1 if number % 2 else 1]:
            runs.append(way())
    for _ in range(3):
        spawns.append(exec_floor(floor))
        run = Run([EXECS, IMAGE, str(EXEC_ROUNDS), str(MIB), *floor.programs])
        execs.append(numbers(run.text))
    return boots, ours, rates, spawns, execs


def verdict(what, value, limit, most=True):
    right = value <= limit if most else value >= limit
    word = "at most" if most else "at least"
    return f"{'ok   ' if right else 'SHORT'} {what} {value:.2f}, {word} {limit:g}"


def report(copied, boots, ours, rates, spawns, execs):
    def middle(rows, name, at=0):
        return statistics.median(row[name][at] for row in rows)

    print(f"{'':<34} {'floor':>8} {'ours':>8} {'ratio':>7}")

    def line(what, floor, value):
        print(f"{what:<34} {floor:8.2f} {value:8.2f} {value / floor:7.2f}")
        return value / floor

    both = {key: [statistics.median(getattr(run, key) for run in runs) for runs in (boots, ours)]
            for key in ("wall", "cpu")}
    wall = line("boot, `true`, end: wall s", *both["wall"])
    cpu = line("boot, `true`, end: CPU s", *both["cpu"])
    for name, what in (("nothing", "a static program"), ("true", "/bin/true")):
        for at, part in ((0, "median"), (1, "99 %")):
            line(f"exec of {what}, {part} ms", middle(spawns, name, at), middle(execs, name, at))
    share = line("stdout, MiB/s", statistics.median(rates), middle(execs, "stdout"))
    line("the same beside a pipe in the guest", middle(spawns, "pipe"), middle(execs, "stdout"))
    pause, verb, first, fork, pss = copied
    for what, value in (("snapshot: paused ms", pause), ("snapshot: the verb ms", verb),
                        ("copy: first byte ms", first), (f"fork of {COPIES}: ms", fork),
                        (f"fork of {COPIES}: PSS of each, MiB", pss)):
        print(f"{what:<34} {'':>8} {value:8.2f}")
    print()
    print(verdict("boot wall / floor", wall, BOOT_RATIO))
    print(verdict("boot CPU / floor", cpu, BOOT_RATIO))
    for name in ("nothing", "true"):
        print(verdict(f"exec {name} median ms", middle(execs, name), EXEC_P50_MS))
        print(verdict(f"exec {name} 99 % ms", middle(execs, name, 1), EXEC_P99_MS))
    print(verdict("snapshot pause ms", pause, PAUSE_MS))
    print(verdict("copy to first byte ms", first, COPY_MS))
    print(verdict("stdout / transport", share, STDOUT_SHARE, most=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    os.environ["IMGRUN_HOME"] = f"{given.directory}/home"
    [image] = glob.glob(f"{TARGET}/images/{IMAGE}-12-x86_64.tar.zst")
    # Only one of that name: an earlier run's image may be another.
    subprocess.run([IMGRUN, "rm", IMAGE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    say("importing, booting")
    Run([IMGRUN, "run", "-q", image, "--", "true"])
    [kernel] = glob.glob(f"{given.directory}/home/bundles/*/vmlinux")
    copied = copies(os.environ["IMGRUN_HOME"], given.rounds)
    report(copied, *measure(Floor(given.directory, kernel), given.rounds))


if __name__ == "__main__":
    main()
