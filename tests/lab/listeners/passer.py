"""Binds a TCP port, or takes the listening socket that it was started with, hands it to whoever waits at a UNIX socket, and
is gone.

usage: passer.py PORT|fd SOCKET
"""

import socket
import sys

if sys.argv[1] == "fd":
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", int(sys.argv[1])))
    listener.listen()
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
    receiver.connect(sys.argv[2])
    socket.send_fds(receiver, [b"."], [listener.fileno()])
    receiver.recv(1)
