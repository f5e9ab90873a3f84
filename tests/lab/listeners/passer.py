"""Binds a TCP port, hands the listening socket to whoever waits at a UNIX socket, and is gone.

usage: passer.py PORT SOCKET
"""

import socket
import sys

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen()
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
    receiver.connect(sys.argv[2])
    socket.send_fds(receiver, [b"."], [listener.fileno()])
    receiver.recv(1)
