"""What a process can do to whoever looks at it: a listener on 8080 that is as hard to look at as it can be made.

usage: evil.py large|crowd|elsewhere|shared|files|many|idle|deep|nested|fan|gone [SOCKET|COUNT]

large   arguments and an environment of megabytes, a name of control characters, and half a million open files
crowd   2,000 processes that all have the listener
elsewhere  the same, of a listener on 127.0.0.2
shared  600 listeners at as many addresses of loopback, and 600 processes that have all of them, with 2,000 arguments each
files   COUNT processes that have 19,000 files open each, and nothing of the port; every other is one of su(1), with root's rights
many    72,000 sockets of UDP at as many addresses of loopback, which four processes have
idle    15,000 sockets on 127.0.0.2 that do not listen, and let others bind there
deep    a listener that was born above a long chain of threaded cgroups, at whose end it is; needs a cgroup that is delegated to it
nested  sockets of UDP, each of which was born below the cgroup of the one before, and 2,500 cgroups below the last; likewise
fan     1,000 sockets of UDP, each of which was born in a cgroup of its own at the end of a long chain of threaded ones; likewise
gone    a listener that was born in a cgroup which is removed, and is then handed to whoever waits at SOCKET; likewise
"""

import os
import resource
import signal
import socket
import sys


def loopback(number, net=1):
    return f"127.{net}.{number // 200}.{1 + number % 200}"


def listen(address=""):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 8080))
    listener.listen()
    return listener


def own_cgroup():
    with open("/proc/self/cgroup") as file:
        return "/sys/fs/cgroup" + file.read().strip().split("::", 1)[1]


def move_to(cgroup, file="cgroup.procs"):
    with open(f"{cgroup}/{file}", "w") as procs:
        procs.write("0")


def large():
    if len(sys.argv) < 3:
        # 128 KiB is the longest that one string may be (MAX_ARG_STRLEN), 3/4 of 8 MiB all of them.
        junk = "\x1b[2J\n\u202e" + "x" * 100_000
        variables = {f"V{number}": junk for number in range(30)}
        variables["INVOCATION_ID"] = sys.argv[0]
        os.execve(sys.executable, [sys.executable, sys.argv[0], "large"] + [junk] * 25, variables)
    with open("/proc/self/comm", "wb") as name:
        name.write(b"\x1b[31m\xff\n(sd-pam)")
    listener = listen()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in range(100, min(most, 500_000)):
        os.dup2(0, number)
    return listener


def crowd(address=""):
    listener = listen(address)
    for _ in range(2000):
        if os.fork() == 0:
            break
    return listener


def elsewhere():
    return crowd("127.0.0.2")


def shared():
    if len(sys.argv) < 3:
        os.execv(sys.executable, [sys.executable, sys.argv[0], "shared"] + ["a"] * 2000)
    listeners = [listen(loopback(number)) for number in range(600)]
    for _ in range(600):
        if os.fork() == 0:
            break
    return listeners


def files():
    for number in range(100, 19_100):
        os.dup2(0, number)
    silent, _ = os.pipe()
    for number in range(int(sys.argv[2])):
        if os.fork() == 0:
            if number % 2:
                os.dup2(silent, 0)
                os.execvp("su", ["su", "root"])
            break


def datagrams(address):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 8080))
    return server


def many():
    first = next((number for number in range(3) if os.fork() == 0), 3)
    return [datagrams(loopback(number, 1 + first)) for number in range(18_000)]


def idle():
    kept = []
    for _ in range(15_000):
        kept.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept[-1].bind(("127.0.0.2", 8080))
    return kept


def make_threaded(cgroup):
    os.mkdir(cgroup)
    with open(f"{cgroup}/cgroup.type", "w") as kind:
        kind.write("threaded")


def chain():
    cgroup = own_cgroup()
    for _ in range(1000):
        cgroup += "/d"
        make_threaded(cgroup)
    return cgroup


def deep():
    listener = listen()
    move_to(chain(), "cgroup.threads")
    return listener


def fan():
    end = chain()
    kept = []
    for number in range(1000):
        make_threaded(f"{end}/{number}")
        move_to(f"{end}/{number}", "cgroup.threads")
        kept.append(datagrams(loopback(number)))
    return kept


def nested():
    cgroup = own_cgroup()
    kept = []
    for number in range(300):
        cgroup += "/d"
        os.mkdir(cgroup)
        move_to(cgroup)
        kept.append(datagrams(loopback(number)))
    for number in range(2500):
        os.mkdir(f"{cgroup}/{number}")
    return kept


def gone():
    born = f"{own_cgroup()}/born"
    home = f"{own_cgroup()}/home"
    os.mkdir(born)
    os.mkdir(home)
    move_to(born)
    listener = listen()
    move_to(home)
    os.rmdir(born)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
        receiver.connect(sys.argv[2])
        socket.send_fds(receiver, [b"."], [listener.fileno()])
        receiver.recv(1)
    listener.close()


kinds = [large, crowd, elsewhere, shared, files, many, idle, deep, nested, fan, gone]
kept = next(kind for kind in kinds if kind.__name__ == sys.argv[1])()
with open("/run/evil.ready", "w") as ready:
    ready.write("ready")
while True:
    signal.pause()
