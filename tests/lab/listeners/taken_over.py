"""A daemon that leaves its unit's cgroup, survives its unit, and is taken over by the next run through its pid file.

usage: taken_over.py PORT PIDFILE CGROUP
"""

import os
import signal
import socket
import sys
import time

port, pidfile, cgroup = sys.argv[1:]
try:
    with open(pidfile + ".kept") as kept:
        pid = int(kept.read())
    os.kill(pid, 0)
except (OSError, ValueError):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", int(port)))
    listener.listen()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with open(cgroup + "/cgroup.procs", "w") as procs:
            procs.write("0")
        while True:
            signal.pause()
    time.sleep(0.5)
for name in (pidfile, pidfile + ".kept"):
    with open(name, "w") as file:
        file.write(str(pid))
