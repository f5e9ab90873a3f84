"""Listens on a TCP port with a socket whose only descriptor is on its way to somebody who never takes it.

usage: in_flight.py PORT

The message lies in a pair of sockets that this process keeps; it has the listener itself no more.
"""

import os
import signal
import socket
import sys

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen()
near, far = socket.socketpair()
socket.send_fds(near, [b"."], [listener.fileno()])
listener.close()
if os.fork():
    os._exit(0)
while True:
    signal.pause()
