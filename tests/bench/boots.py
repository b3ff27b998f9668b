#!/usr/bin/env python3
"""Boots kernels side by side and prints one table. See tests/bench/boot.

    boots.py DIRECTORY [--kernel NAME]... [--rounds N] [--memory MIB] [--breakdown] [--build]
             [--firecracker-kernel FILE]

What is measured, the same for every kernel:

- QEMU's microvm under TCG: 1 processor, `-cpu max,-erms,-fsrm`, 256 MiB, and the command line that
  imgrun gives to guests it emulates. An ELF kernel is started through its PVH entry.
- The root is a 4 MiB ext4 disk on virtio-blk with one static program of 5 KiB as its init. A
  kernel that has no virtio drivers built in (Debian's) gets the same program in an initrd.
- *Instructions*: everything the guest executes until the first instruction of init, firmware
  included, counted by a plugin in QEMU (guest/count.c). `-icount shift=0` ties the guest's clock to
  the count, `-seed` its random numbers, and a read of the disk is done before the guest looks, or
  on a busy host sometimes a timer tick later. So the least of some counts, which the table has, is
  the same every time; `spread` is how far the others were from it.
- *Seconds*: QEMU from start to exit, boot and power-off, without icount and plugin; medians of
  boots in turn.
- *Memory*: what init finds in /proc/meminfo: `kernel` is what is not in MemTotal, `idle` what is
  not in MemFree, both of 256 MiB.
"""

import argparse
import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
IMGTOOL = os.path.join(HERE, "../../target/debug/imgtool")
OURS = ["generic-6.1", "micro-6.1", "generic-6.12", "micro-6.12"]
DEBIAN = "linux-image-cloud-amd64"
# Where init is linked: no kernel executes its own code there.
INIT_ADDRESS = 1 << 40
COUNTS = 5
BOOT_SECONDS_MAX = 120
MIB = 1 << 20
# Issue 4, "What it must show".
RATIO_LEAST = {"generic": 35, "micro": 55}
VMLINUX_MIB_MOST = {"generic": 24}
BZIMAGE_MIB_MOST = {"micro": 3.5}
# How a kernel may be compressed in a bzImage.
PACKERS = {
    b"\x1f\x8b": ["gzip", "-dc"],
    b"\xfd7zXZ": ["xz", "-dc"],
    b"\x02\x21\x4c\x18": ["lz4", "-dc"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
}


def say(text):
    print("bench:", text, file=sys.stderr, flush=True)


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


class Kernel:
    def __init__(self, name, vmlinux, bzimage=None, initrd=None, words=()):
        self.name, self.vmlinux, self.bzimage = name, vmlinux, bzimage
        self.initrd, self.words = initrd, list(words)
        self.counts, self.boots, self.build = [], [], None


class Boot:
    """One boot that ended by itself: processor and wall seconds, and what init printed."""

    def __init__(self, bench, kernel):
        started = time.monotonic()
        command = bench.qemu(kernel, tsc_khz=bench.tsc_khz)
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["timeout", str(BOOT_SECONDS_MAX), *command], stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read().decode(errors="replace")
        self.wall = time.monotonic() - started
        self.cpu = usage.ru_utime + usage.ru_stime
        free = dict(re.findall(r"^(\w+): +(\d+) kB", text, re.M))
        if process.returncode != 0 or "MemFree" not in free:
            sys.exit(f"bench: {kernel.name} did not boot:\n{text[-3000:]}")
        self.kernel_mib = bench.memory - int(free["MemTotal"]) / 1024
        self.idle_mib = bench.memory - int(free["MemFree"]) / 1024


class Bench:
    def __init__(self, directory, memory):
        self.directory, self.memory = directory, memory
        self.plugin, self.init = self.path("count.so"), self.path("root/init")
        self.disk, self.initrd = self.path("root.ext4"), self.path("initrd")
        mhz = re.search(r"cpu MHz\s*: ([\d.]+)", open("/proc/cpuinfo").read())
        self.tsc_khz = round(float(mhz[1]) * 1000)
        os.makedirs(self.path("root/proc"), exist_ok=True)
        os.makedirs(self.path("root/dev"), exist_ok=True)
        run("gcc", "-O2", "-shared", "-fPIC", "-o", self.plugin, f"{HERE}/guest/count.c")
        run("gcc", "-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector",
            "-fno-pie", "-no-pie", "-mcmodel=large", "-Wl,--build-id=none",
            f"-Wl,-Ttext-segment={INIT_ADDRESS:#x}", "-o", self.init, f"{HERE}/guest/init.c")
        if os.path.exists(self.disk):
            os.unlink(self.disk)
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", self.path("root"),
            self.disk, "4M")
        with open(self.initrd, "wb") as file:
            file.write(cpio(open(self.init, "rb").read()))

    def path(self, name):
        return os.path.join(self.directory, name)

    def qemu(self, kernel, tsc_khz, words=(), more=()):
        initrd = ["-initrd", self.initrd] if kernel.initrd else []
        root = [] if kernel.initrd else ["root=/dev/vda", "ro", "rootfstype=ext4"]
        line = [*kernel.words, *words, *root, "init=/init", "console=ttyS0", "panic=-1", "reboot=t",
                "no_timer_check", "nolapic_timer", f"tsc_early_khz={tsc_khz}", "tsc=nowatchdog"]
        if not words:
            line.insert(0, "quiet")
        disk = f"raw,node-name=root,read-only=on,file.driver=file,file.filename={self.disk}"
        if more:
            disk += ",file.aio=io_uring"
        return ["qemu-system-x86_64", "-M", "microvm,acpi=off,pcie=off,usb=off,graphics=off",
                "-accel", "tcg", "-cpu", "max,-erms,-fsrm", "-smp", "1", "-m", f"{self.memory}M",
                "-kernel", kernel.vmlinux, *initrd, "-append", " ".join(line), "-blockdev", disk,
                "-device", "virtio-blk-device,drive=root", "-serial", "stdio", "-display", "none",
                "-nodefaults", "-no-user-config", "-no-reboot", *more]

    def counted(self, kernel, words=(), plugin=True, profile=None):
        """One boot with a clock of instructions: what QEMU printed."""
        more = ["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01,clock=vm",
                "-global", "virtio-mmio.ioeventfd=off"]
        if plugin:
            file = f",profile={profile}" if profile else ""
            more += ["-plugin", f"{self.plugin},init={INIT_ADDRESS:#x}{file}"]
        done = subprocess.run(
            self.qemu(kernel, 1_000_000, words, more), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BOOT_SECONDS_MAX)
        return done.stdout.decode(errors="replace")

    def count(self, kernel):
        text = self.counted(kernel)
        found = re.search(r"^instructions (\d+)", text, re.M)
        if not found:
            sys.exit(f"bench: {kernel.name} did not reach its init:\n{text[-3000:]}")
        return int(found[1])


def cpio(init):
    """An initrd: /dev/console, /proc and the program."""
    def entry(name, mode, data=b"", device=(0, 0)):
        name = name.encode() + b"\0"
        fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0]
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        head += b"\0" * (-len(head) % 4)
        return head + data + b"\0" * (-len(data) % 4)
    return b"".join([
        entry("dev", 0o40755), entry("dev/console", 0o20600, device=(5, 1)),
        entry("proc", 0o40755), entry("init", 0o100755, init), entry("TRAILER!!!", 0)])


def ours(bench, name, cache=None):
    """Builds our kernel, or finds it in the cache: the kernel, and the processor time it took."""
    before = os.times()
    environment = dict(os.environ)
    if cache:
        environment |= {"IMGTOOL_CACHE": cache, "CCACHE_DIR": f"{cache}/ccache"}
    say(f"kernel {name}")
    configs = os.path.join(HERE, "../../kernel-configs")
    answer = run(IMGTOOL, "--json", "kernel", "build", name, "--config-dir", configs,
                 env=environment)
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])
    into = bench.path(name)
    shutil.rmtree(into, ignore_errors=True)
    os.makedirs(into)
    bundle = json.loads(answer.splitlines()[-1])["path"]
    packed = subprocess.Popen(["zstd", "-dcq", bundle], stdout=subprocess.PIPE)
    run("tar", "-x", "-C", into, stdin=packed.stdout)
    bzimage = os.path.join(into, "bzImage")
    bzimage = bzimage if os.path.exists(bzimage) else None
    return Kernel(name, os.path.join(into, "vmlinux"), bzimage), seconds


def unpack_bzimage(path, into):
    """The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst: payload_offset)."""
    image = open(path, "rb").read()
    start = (image[0x1F1] or 4) * 512 + 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[start:start + int.from_bytes(image[0x24C:0x250], "little")]
    packer = next((p for magic, p in PACKERS.items() if payload.startswith(magic)), None)
    if image[0x202:0x206] != b"HdrS" or packer is None:
        sys.exit(f"bench: {path} is compressed in no known way")
    # What follows the compressed data is its length, which some programs complain of.
    done = subprocess.run(packer, input=payload, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not done.stdout.startswith(b"\x7fELF"):
        sys.exit(f"bench: there is no ELF file in {path}: {done.stderr.decode()}")
    with open(into, "wb") as file:
        file.write(done.stdout)


def debian(bench):
    """Debian's cloud kernel, twice: as it is, and without its cipher tests."""
    depends = run("apt-cache", "depends", "--important", DEBIAN, text=True)
    package = re.search(r"Depends: (linux-image-\S+)", depends)[1]
    into = bench.path(package)
    vmlinuz = glob.glob(f"{into}/boot/vmlinuz-*")
    if not vmlinuz:
        say(f"downloading {package}")
        os.makedirs(into, exist_ok=True)
        run("apt-get", "-qq", "download", package, cwd=into)
        run("dpkg-deb", "-x", glob.glob(f"{into}/*.deb")[0], into)
        os.unlink(glob.glob(f"{into}/*.deb")[0])
        vmlinuz = glob.glob(f"{into}/boot/vmlinuz-*")
    vmlinux = os.path.join(into, "vmlinux")
    unpack_bzimage(vmlinuz[0], vmlinux)
    name = "Debian cloud"
    return [Kernel(name, vmlinux, vmlinuz[0], initrd=True),
            Kernel(f"{name}, notests", vmlinux, vmlinuz[0], initrd=True,
                   words=["cryptomgr.notests"])]


def symbols(bench, kernel):
    """Addresses and names of the kernel's functions, as the guest itself tells them."""
    text = bench.counted(kernel, ["quiet", "symbols"], plugin=False)
    found = re.findall(r"^([0-9a-f]{16}) \w (\S+)", text, re.M)
    return sorted((int(address, 16), name) for address, name in found)


def breakdown(bench, kernel):
    """Where the instructions go: by function, and by initcall."""
    profile = bench.path("profile")
    bench.counted(kernel, profile=profile)
    names, of = symbols(bench, kernel), {}
    position, (start, name) = 0, (0, "before the kernel's own addresses")
    lines = (line.split() for line in open(profile))
    for address, count in sorted((int(a, 16), int(n)) for a, n in lines):
        while position < len(names) and names[position][0] <= address:
            start, name = names[position]
            position += 1
        of[name] = of.get(name, 0) + count
    total = sum(of.values())
    print(f"\n{kernel.name}: {total / 1e6:.2f} M instructions, by function")
    for name, count in sorted(of.items(), key=lambda item: -item[1])[:40]:
        print(f"  {count / 1e6:8.3f} M {100 * count / total:5.1f} %  {name}")
    text = bench.counted(kernel, ["initcall_debug", "loglevel=8"], plugin=False)
    calls = re.findall(r"initcall (\S+?)\+\S+ returned \S+ after (\d+) usecs", text)
    print(f"{kernel.name}: initcalls, in thousands of instructions (those before the clocksource")
    print("is switched are told in steps of 10,000)")
    for name, thousands in sorted(calls, key=lambda call: -int(call[1]))[:25]:
        print(f"  {int(thousands):8} {name}")


def stripped_mib(bench, path):
    into = bench.path("stripped")
    run("strip", "-o", into, path)
    return os.path.getsize(into) / MIB


def table(bench, kernels, base):
    head = f"{'kernel':<22} {'instructions M':>14} {'Debian/it':>9} {'spread':>8} {'CPU s':>6}"
    head += f" {'wall s':>7} {'kernel MiB':>10} {'idle MiB':>8} {'vmlinux MiB':>11}"
    head += f" {'bzImage MiB':>11} {'build CPU s':>11}"
    lines = [head]
    for kernel in kernels:
        kernel.instructions = min(kernel.counts)
        spread = max(kernel.counts) / kernel.instructions - 1
        kernel.vmlinux_mib = stripped_mib(bench, kernel.vmlinux)
        kernel.bzimage_mib = os.path.getsize(kernel.bzimage) / MIB if kernel.bzimage else None

        def middle(key):
            return statistics.median(getattr(boot, key) for boot in kernel.boots)
        ratio = f"{base / kernel.instructions:.1f}" if base else "-"
        bzimage = f"{kernel.bzimage_mib:.2f}" if kernel.bzimage else "-"
        build = f"{kernel.build:.0f}" if kernel.build is not None else "-"
        lines.append(
            f"{kernel.name:<22} {kernel.instructions / 1e6:14.3f} {ratio:>9} {spread:8.0e}"
            f" {middle('cpu'):6.2f} {middle('wall'):7.2f} {middle('kernel_mib'):10.1f}"
            f" {middle('idle_mib'):8.1f} {kernel.vmlinux_mib:11.2f} {bzimage:>11} {build:>11}")
    return lines


def verdicts(kernels, base):
    """Issue 4's numbers, each with what was measured."""
    for kernel in kernels:
        kind = kernel.name.split("-")[0]

        def verdict(what, value, limit, right):
            word = "at least" if what.startswith("Debian") else "at most"
            start = "ok   " if right else "SHORT"
            return f"{start} {kernel.name}: {what} {value:.2f}, {word} {limit:g}"
        if kind in RATIO_LEAST and base:
            ratio = base / kernel.instructions
            yield verdict("Debian's instructions against its", ratio, RATIO_LEAST[kind],
                          ratio >= RATIO_LEAST[kind])
        if kind in VMLINUX_MIB_MOST:
            most = VMLINUX_MIB_MOST[kind]
            yield verdict("vmlinux MiB", kernel.vmlinux_mib, most, kernel.vmlinux_mib <= most)
        if kind in BZIMAGE_MIB_MOST and kernel.bzimage:
            most = BZIMAGE_MIB_MOST[kind]
            yield verdict("bzImage MiB", kernel.bzimage_mib, most, kernel.bzimage_mib <= most)


def main():
    arguments = argparse.ArgumentParser(description="See tests/bench/boot.")
    arguments.add_argument("directory", type=os.path.abspath)
    arguments.add_argument("--kernel", action="append", metavar="NAME",
                           help="one of ours, or a vmlinux; by default ours")
    arguments.add_argument("--rounds", type=int, default=7, help="boots that are timed")
    arguments.add_argument("--memory", type=int, default=256, metavar="MIB")
    arguments.add_argument("--breakdown", action="store_true",
                           help="where the instructions go: by function and initcall")
    arguments.add_argument("--build", action="store_true",
                           help="build each of ours once more, from nothing, and say how long")
    arguments.add_argument("--firecracker-kernel", metavar="FILE",
                           help="a vmlinux built with Firecracker's CI configuration")
    arguments.add_argument("--no-debian", action="store_true", help="leave Debian's kernel out")
    options = arguments.parse_args()
    bench = Bench(options.directory, options.memory)
    kernels, skipped = [], []
    for name in options.kernel or OURS:
        if "/" in name:
            kernels.append(Kernel(os.path.basename(name), name))
            continue
        kernels.append(ours(bench, name)[0])
        if options.build:
            with tempfile.TemporaryDirectory(dir=options.directory) as cache:
                kernels[-1].build = ours(bench, name, cache)[1]
    base_row = []
    if options.no_debian:
        skipped.append("Debian's cloud kernel: --no-debian, so there are no ratios")
    else:
        base_row = debian(bench)
        kernels += base_row
    if options.firecracker_kernel:
        kernels.append(Kernel("Firecracker CI", os.path.abspath(options.firecracker_kernel)))
    else:
        skipped.append("Firecracker's CI kernel: give --firecracker-kernel FILE")
    for text in skipped:
        say(f"SKIPPED {text}")
    for kernel in kernels:
        say(f"{kernel.name}: counting")
        kernel.counts = [bench.count(kernel) for _ in range(COUNTS)]
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        for kernel in kernels[::-1 if number % 2 else 1]:
            kernel.boots.append(Boot(bench, kernel))
    base = min(base_row[0].counts) if base_row else None
    print(f"One processor, {options.memory} MiB, QEMU microvm under TCG; the least of {COUNTS} "
          f"counts, medians of {options.rounds} timed boots.\nDebian's kernel starts from an initrd, the others from a "
          "virtio-blk disk.\n")
    print("\n".join(table(bench, kernels, base)))
    print("\n".join("SKIPPED " + text for text in skipped) or "Nothing was skipped.")
    print("\n".join(["", "What issue 4 asks for:", *verdicts(kernels, base)]))
    if options.breakdown:
        for kernel in kernels:
            breakdown(bench, kernel)


main()
