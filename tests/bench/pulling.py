#!/usr/bin/env python3
"""Runs pulls side by side with curl, zstd, tar and sha256sum. See tests/bench/pull.

    pulling.py DIRECTORY [--rounds N]
"""

import argparse
import glob
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time

from timed import Run

HERE = os.path.dirname(os.path.abspath(__file__))
RELEASE = os.path.join(HERE, "../../target/release")
LEVEL = 3  # That of builder/src/pack.rs.
MBIT, ROUND_TRIP_MS = 200, 20
# Issue 6, "What it must show".
FASTER, RSS_MIB, ONE_MORE, UPGRADE = 1.5, 64, 0.20, 0.60

NGINX = """worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.errors; {user}
events {{ worker_connections 512; }}
http {{ client_body_temp_path {dir}/temp; proxy_temp_path {dir}/temp; fastcgi_temp_path {dir}/temp;
  uwsgi_temp_path {dir}/temp; scgi_temp_path {dir}/temp; sendfile on;
  log_format plain '$body_bytes_sent $uri'; access_log {dir}/nginx.log plain;
  server {{ listen 127.0.0.1:{port}; root {dir}/depot; }} }}
"""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def started(command, port):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            time.sleep(0.05)
    sys.exit(f"bench: {command} does not start")


def configure(work, port):
    os.makedirs(f"{work}/imgrun", exist_ok=True)
    with open(f"{work}/catalogs-{port}.toml", "w") as file:
        file.write(f'[[catalog]]\nname = "bench"\nroot = "root.json"\n'
                   f'depots = ["http://127.0.0.1:{port}"]\n')
    return f"{work}/catalogs-{port}.toml"


def pull(work, port, version):
    return [f"{RELEASE}/imgrun", "-q", "pull", f"debian@{version}", "--json",
            "--catalogs", configure(work, port)]


def cold(work, place, port, rounds):
    """Every way in turn, every other round backwards: what ran before leaves its mark."""
    home, out = f"{work}/home", f"{work}/unpacked"
    bundle = os.path.basename(glob.glob(f"{work}/depot/targets/*.debian-1-*")[0])
    plainly = (f"curl -sf http://127.0.0.1:{port}/targets/{bundle} | zstd -dcq | tar x -C {out}"
               f" && sha256sum {out}/rootfs.ext4")
    ways = {
        "curl|zstd|tar+sha256sum": ["sh", "-c", plainly],
        "the same, synced": ["sh", "-c", f"{plainly} && sync {out}/rootfs.ext4"],
        # The kernel is there, so that both fetch the same file.
        "imgrun pull": pull(work, port, 1),
    }
    runs = {name: [] for name in ways}
    for number in range(rounds):
        for name, command in list(ways.items())[::-1 if number % 2 else 1]:
            shutil.rmtree(out, ignore_errors=True)
            os.makedirs(out)
            shutil.rmtree(home, ignore_errors=True)
            kernel = glob.glob(f"{work}/out/generic-*.tar.zst")[0]
            environment = {"IMGRUN_HOME": home}
            Run([f"{RELEASE}/imgrun", "-q", "import", kernel], environment)
            runs[name].append(Run(command, environment))
    shutil.rmtree(out)
    by = {name: [statistics.median(getattr(run, key) for run in done)
                 for key in ("wall", "cpu", "rss")] for name, done in runs.items()}
    size = os.path.getsize(f"{work}/depot/targets/{bundle}")
    print(f"cold pull of {size} bytes, {place}")
    print(f"  {'':<26} {'wall s':>7} {'CPU s':>7} {'RSS MiB':>8} {'wall/first':>11}")
    first = next(iter(by.values()))[0]
    for name, (wall, cpu, rss) in by.items():
        print(f"  {name:<26} {wall:7.2f} {cpu:7.2f} {rss:8.0f} {wall / first:11.2f}")
    print(flush=True)
    return by


def files(tar):
    """Every content and where it is, by digest."""
    found = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.isreg():
                content = archive.extractfile(member).read()
                found[hashlib.sha256(content).digest()] = content
    return found


def bound(old, new):
    """What nobody can avoid: contents that the old version has not got, compressed."""
    had = files(old)
    fresh = b"".join(content for digest, content in files(new).items() if digest not in had)
    return len(subprocess.run(["zstd", f"-{LEVEL}", "-T1"], input=fresh, check=True,
                              capture_output=True).stdout)


def next_versions(work, port):
    """For each next version what comes over the wire, all of it, and the bound."""
    shares = {}
    home = f"{work}/home"
    for version, what in ((2, "one package more"), (3, "a point release's updates")):
        shutil.rmtree(home, ignore_errors=True)
        environment = {"IMGRUN_HOME": home}
        Run(pull(work, port, 1), environment)
        open(f"{work}/nginx.log", "w").close()
        run = Run(pull(work, port, version), environment)
        time.sleep(0.3)
        with open(f"{work}/nginx.log") as log:
            wire = sum(int(line.split()[0]) for line in log)
        told = sum(bundle["fetched_bytes"] for bundle in json.loads(run.text))
        full = os.path.getsize(glob.glob(f"{work}/depot/targets/*.debian-{version}-*")[0])
        least = bound(f"{work}/debian-1.tar", f"{work}/debian-{version}.tar")
        print(f"{what}: {wire} bytes on the wire ({told} told), all of it {full}: {wire / full:.1%};"
              f" new files, compressed: {least} ({least / full:.1%}); {run.wall:.2f} s")
        shares[version] = wire / full
    shutil.rmtree(home)
    print()
    return shares


def verdict(what, value, limit, most=True):
    right = value <= limit if most else value >= limit
    word = "at most" if most else "at least"
    return f"{'ok   ' if right else 'SHORT'} {what} {value:.3f}, {word} {limit:g}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory", type=os.path.abspath)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    work, port, slow = options.directory, free_port(), free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    with open(f"{work}/nginx.conf", "w") as file:
        file.write(NGINX.format(dir=work, port=port, user=user))
    nginx = started(["/usr/sbin/nginx", "-c", f"{work}/nginx.conf", "-p", work], port)
    link = started([f"{HERE}/link.py", *map(str, (slow, port, MBIT, ROUND_TRIP_MS))], slow)
    try:
        fast = cold(work, "loopback", port, options.rounds)
        shaped = cold(work, f"{MBIT} Mbit/s and {ROUND_TRIP_MS} ms", slow, options.rounds)
        shares = next_versions(work, port)
    finally:
        link.terminate()
        nginx.terminate()
        nginx.wait()
    plain, ours = "curl|zstd|tar+sha256sum", "imgrun pull"
    print("What issue 6 asks for:")
    for line in (
        verdict("loopback: times faster", fast[plain][0] / fast[ours][0], FASTER, False),
        verdict("shaped: wall against curl", shaped[ours][0] / shaped[plain][0], 1.0),
        verdict("peak memory, MiB", max(fast[ours][2], shaped[ours][2]), RSS_MIB),
        verdict("one package more, share of a full pull", shares[2], ONE_MORE),
        verdict("a point release, share of a full pull", shares[3], UPGRADE),
    ):
        print(line)


main()
