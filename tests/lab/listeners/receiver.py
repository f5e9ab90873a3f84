"""Takes whatever file descriptors it is handed at a UNIX socket, and keeps them.

usage: receiver.py SOCKET [thread]

thread  it is one of its threads alone that has them: each has a table of open files of its own
"""

import ctypes
import os
import socket
import sys
import threading


def receive():
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting.bind(sys.argv[1])
    os.chmod(sys.argv[1], 0o777)
    waiting.listen()
    kept = []
    while True:
        peer, _ = waiting.accept()
        with peer:
            kept += socket.recv_fds(peer, 1, 8)[1]
            peer.send(b".")


def receive_apart():
    CLONE_FILES = 0x400
    if ctypes.CDLL(None).unshare(CLONE_FILES) != 0:
        sys.exit("no table of its own")
    receive()


if "thread" in sys.argv:
    thread = threading.Thread(target=receive_apart)
    thread.start()
    thread.join()
else:
    receive()
