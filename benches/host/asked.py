"""portguard and each peer in turn, who all have to name the holder of 19000/tcp.

usage: asked.py ROUNDS PID PORTGUARD ARGUMENT...

A line a run: who, when it ended and when it began, in seconds. The first round does not count.
"""

import os
import re
import sys
import time

PEERS = {
    "ss": ["ss", "-Hltnp", "sport = :19000"],
    "fuser": "fuser -n tcp 19000".split(),
    "lsof": "lsof -nP -iTCP:19000 -sTCP:LISTEN".split(),
}
WRITTEN = "/run/asked"
# portguard says so where the bus has not answered: "systemd could not be asked", "systemctl was asked instead of the bus".
UNASKED = " asked"


def timed(who, command, wanted, words):
    """Spawned as cheaply as the kernel can; both outputs go to the same file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    outputs = [(os.POSIX_SPAWN_OPEN, fd, WRITTEN, flags, 0o600) for fd in (1, 2)]
    begin = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=outputs)
    _, status = os.waitpid(pid, 0)
    end = time.monotonic()
    with open(WRITTEN) as file:
        written = file.read()
    status = os.waitstatus_to_exitcode(status)
    if status != wanted or UNASKED in written or not all(re.search(rf"\b{word}\b", written) for word in words):
        sys.exit(f"{who} ended with {status}, and wrote: {written}")
    return f"{who} {end} {begin}"


rounds, holder, portguard = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
for number in range(rounds + 1):
    turns = [("portguard", portguard, 69, [f"pid {holder}", "systemctl stop app@9000[.]service"])]
    turns += [(who, command, 0, [holder]) for who, command in PEERS.items()]
    first = number % len(turns)
    runs = [timed(*turn) for turn in turns[first:] + turns[:first]]
    if number > 0:
        print("\n".join(runs))
