"""One command, run to its end and measured: wall and CPU seconds, MiB at its peak, what it printed."""

import os
import subprocess
import sys
import time


class Run:
    def __init__(self, command, environment={}):
        os.sync()  # What others left unwritten is not this one's.
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   env={**os.environ, **environment})
        self.text = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        self.wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench: {command} ends with {process.returncode}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.rss = usage.ru_maxrss / 1024
