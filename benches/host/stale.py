"""A service whose worker has its port and survives a stop: KillMode=process stops the main process alone.

usage: stale.py PORT

The worker answers SIGTERM by writing the time to /run/stale/PORT, and is gone.
"""

import os
import signal
import socket
import sys
import time

port = int(sys.argv[1])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", port))
listener.listen()


def leave(_signal, _frame):
    with open(f"/run/stale/{port}", "w") as stamp:
        stamp.write(f"{time.time():.6f}")
    os._exit(0)


# None that comes while the worker is not ready for it is lost.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
is_worker = os.fork() == 0
if is_worker:
    signal.signal(signal.SIGTERM, leave)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
if is_worker:
    while True:
        signal.pause()

manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
signal.pause()
