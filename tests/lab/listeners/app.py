"""The guarded service of most scenarios: a main process that binds, and forked workers that serve.

usage: app.py PORT/tcp|udp [WORKERS] [plain|stubborn|reforking|leaderless|draining|calling] [CGROUP]

The workers inherit the socket, as those of any pre-forking server do. Under KillMode=process systemd stops the main
process alone: the workers stay behind and hold the port, and the next start dies of EADDRINUSE.

plain       the workers die of SIGTERM
stubborn    they ignore it
reforking   they answer the first one with a successor that has the socket, and exit
draining    they close the socket at SIGTERM, and live on for half a minute
calling     at SIGUSR1 they call portguard for app.service, and write its exit status to /run/called
leaderless  their main thread has ended, another one serves: /proc/PID/fd is empty then
CGROUP      the folder of a cgroup that the workers move to once they are there; it is made if it is not
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time


def main():
    port, protocol = sys.argv[1].split("/")
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    kind = sys.argv[3] if len(sys.argv) > 3 else "plain"
    cgroup = sys.argv[4] if len(sys.argv) > 4 else None

    try:
        listener = bind(int(port), protocol)
    except OSError as error:
        sys.exit(f"app.py: cannot bind {sys.argv[1]}: {error.strerror}")
    ready, in_position = os.pipe()
    for _ in range(workers):
        if os.fork() == 0:
            work(listener, kind, cgroup, in_position)
    for _ in range(workers):
        os.read(ready, 1)
    notify("READY=1")
    while True:
        signal.pause()


def bind(port, protocol):
    if protocol == "udp":
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("", port))
        return listener
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    listener.listen()
    return listener


def work(listener, kind, cgroup, in_position):
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "reforking":
        signal.signal(signal.SIGTERM, leave_a_successor)
    if kind == "draining":
        signal.signal(signal.SIGTERM, lambda *_: drain(listener))
    if kind == "calling":
        signal.signal(signal.SIGUSR1, call_portguard)
    if cgroup:
        os.makedirs(cgroup, exist_ok=True)
        with open(cgroup + "/cgroup.procs", "w") as procs:
            procs.write("0")
    if kind == "leaderless":
        threading.Thread(target=serve, args=(listener,)).start()
        os.write(in_position, b".")
        ctypes.CDLL(None).pthread_exit(None)
    os.write(in_position, b".")
    serve(listener)


def drain(listener):
    listener.close()
    time.sleep(30)
    os._exit(0)


def call_portguard(_signal, _frame):
    status = subprocess.run(["/usr/bin/portguard", "--unit", "app.service"]).returncode
    with open("/run/called", "w") as called:
        called.write(str(status))


def leave_a_successor(_signal, _frame):
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def serve(listener):
    while True:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(100)
        else:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"served by %d" % os.getpid())


def notify(state):
    """sd_notify(3); an address that starts with @ is an abstract one."""
    path = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), path)


main()
