"""Runs a command right after a process that sleeps, and looks now and then, has looked.

usage: after_a_look.py PID COMMAND...

It writes a time before which the process did not go back to sleep, in microseconds since 1970.
"""

import subprocess
import sys
import time


def sleeps():
    """How often the process has gone to sleep of its own accord."""
    with open(f"/proc/{sys.argv[1]}/status") as status:
        return next(line for line in status if line.startswith("voluntary_ctxt_switches"))


before, not_before = sleeps(), time.time()
while True:
    awake = time.time()
    if sleeps() != before:
        break
    not_before = awake
    time.sleep(0.001)
print(int(not_before * 1_000_000), flush=True)
subprocess.run(sys.argv[2:], check=True)
