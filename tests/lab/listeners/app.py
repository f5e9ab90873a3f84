"""The guarded service of most scenarios: a main process that binds, and forked workers that serve.

usage: app.py PORT/tcp|udp [WORKERS] [plain|stubborn|reforking|endless|leaderless|draining|lingering|calling] [CGROUP]
       app.py PORT/tcp|udp [WORKERS] [executing|relaying|hanging|clinging|moving|passing] [ELSEWHERE]

The workers inherit the socket, as those of any pre-forking server do. Under KillMode=process systemd stops the main
process alone: the workers stay behind and hold the port, and the next start dies of EADDRINUSE.

plain       the workers die of SIGTERM
stubborn    they ignore it
reforking   they answer the first one with a successor that has the socket, and exit
endless     so they do again and again
draining    they close the socket at SIGTERM, and live on for half a minute
lingering   their sockets are there 0.3 seconds longer than they: in a message that another process has not read
calling     at SIGUSR1 they call portguard for app.service, and write its exit status to /run/called
leaderless  their main thread has ended, another one serves: /proc/PID/fd is empty then
executing   at SIGTERM they execute another program, which has the socket and ignores SIGTERM
relaying    each lives for a thousandth of a second, and leaves a successor that has the socket
hanging     they ask for the file ELSEWHERE, see hang.py
clinging    they have the file ELSEWHERE open, and at SIGTERM they execute another program, which closes it: see inexec.py
moving      at SIGTERM they move to the cgroup whose folder is ELSEWHERE, and live on
passing     at SIGTERM they hand the socket to whoever waits at the UNIX socket ELSEWHERE, and exit
CGROUP      the folder of a cgroup that the workers move to once they are there; it is made if it is not
"""

import ctypes
import os
import select
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
    elsewhere = sys.argv[4] if len(sys.argv) > 4 else None

    # It binds itself, and wants nothing of what a socket unit hands it.
    os.closerange(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    try:
        listener = bind(int(port), protocol)
    except OSError as error:
        sys.exit(f"app.py: cannot bind {sys.argv[1]}: {error.strerror}")
    ready, in_position = os.pipe()
    for _ in range(workers):
        if os.fork() == 0:
            work(listener, kind, elsewhere, in_position)
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


def work(listener, kind, elsewhere, in_position):
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "reforking":
        signal.signal(signal.SIGTERM, leave_a_successor)
    if kind == "endless":
        signal.signal(signal.SIGTERM, lambda *_: os.fork() and os._exit(0))
    if kind == "draining":
        signal.signal(signal.SIGTERM, lambda *_: drain(listener))
    if kind == "calling":
        signal.signal(signal.SIGUSR1, call_portguard)
    if kind == "executing":
        signal.signal(signal.SIGTERM, lambda *_: execute(listener))
    if kind == "clinging":
        os.open(elsewhere, os.O_RDONLY)
        signal.signal(signal.SIGTERM, lambda *_: execute(listener))
    if kind == "moving":
        signal.signal(signal.SIGTERM, lambda *_: move(elsewhere))
    if kind == "passing":
        signal.signal(signal.SIGTERM, lambda *_: pass_on(listener, elsewhere))
    if kind == "lingering":
        linger(listener)
    if elsewhere and kind not in ("hanging", "clinging", "moving", "passing"):
        move(elsewhere)
    if kind == "leaderless":
        threading.Thread(target=serve, args=(listener,)).start()
        os.write(in_position, b".")
        ctypes.CDLL(None).pthread_exit(None)
    os.write(in_position, b".")
    while kind == "relaying":
        time.sleep(0.001)
        if os.fork():
            os._exit(0)
    if kind == "hanging":
        os.stat(elsewhere)
    serve(listener)


def move(cgroup):
    os.makedirs(cgroup, exist_ok=True)
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")


def execute(listener):
    os.set_inheritable(listener.fileno(), True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execv("/bin/sleep", ["sleep", "infinity"])


def pass_on(listener, path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
        receiver.connect(path)
        socket.send_fds(receiver, [b"."], [listener.fileno()])
        receiver.recv(1)
    os._exit(0)


def linger(listener):
    near, far = socket.socketpair()
    socket.send_fds(near, [b"."], [listener.fileno()])
    near.close()
    worker = os.pidfd_open(os.getpid())
    if os.fork():
        far.close()
        return
    listener.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    select.select([worker], [], [])
    time.sleep(0.3)
    os._exit(0)


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
    path = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), path)


main()
