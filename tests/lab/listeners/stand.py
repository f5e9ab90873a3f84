"""Stands on ports in every way that a socket can.

usage: stand.py ENDPOINT[,OPTION...]...

ENDPOINT is ADDRESS:PORT/tcp|udp|mptcp, an IPv6 address in brackets.

v6only       IPv6 alone; without it, an IPv6 socket takes IPv4 as well
reuseport    sets SO_REUSEPORT
noreuse      does not set SO_REUSEADDR, as TCP sockets do otherwise
idle         binds, and does not listen
connected    has a peer, which nobody is
closed       was closed after it had a peer, which is there
device=NAME  bound to a network device
brief        lets go at once: whether it could be had is the exit status

A forked child holds them all, and is left behind by whatever stops its parent alone. With NOTIFY_SOCKET the parent
stays, and holds them too; without, it writes the child's pid and exits. SIGUSR1 makes the child close them and live on.
"""

import os
import signal
import socket
import sys

KINDS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "mptcp": (socket.SOCK_STREAM, 262),  # IPPROTO_MPTCP, which the oldest Python here has no name for
    "udp": (socket.SOCK_DGRAM, 0),
}


def main():
    try:
        held = [stand(*argument.split(",")) for argument in sys.argv[1:]]
    except OSError as error:
        sys.exit(f"stand.py: {error.strerror}")
    if any("brief" in argument for argument in sys.argv[1:]):
        return
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: [one.close() for one in held])
        # Whoever reads the pid through a pipe would wait for this end of it.
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    elif "NOTIFY_SOCKET" not in os.environ:
        print(child)
        return
    else:
        notify("READY=1")
    while True:
        signal.pause()


def stand(endpoint, *options):
    place, kind = endpoint.split("/")
    address, port = place.rsplit(":", 1)
    address = address.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    held = socket.socket(family, *KINDS[kind])
    if kind != "udp" and "noreuse" not in options:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "reuseport" in options:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, "v6only" in options)
    for option in options:
        if option.startswith("device="):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, option[len("device="):].encode())
    held.bind((address, int(port)))
    if "connected" in options:
        held.connect(("127.0.0.1", 9))
    if "closed" in options:
        listener = socket.create_server(("127.0.0.1", 0))
        held.connect(listener.getsockname())
        peer, _ = listener.accept()
        held.close()
        return peer
    if kind != "udp" and "idle" not in options:
        held.listen()
    return held


def notify(state):
    """sd_notify(3); an address that starts with @ is an abstract one."""
    path = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), path)


main()
