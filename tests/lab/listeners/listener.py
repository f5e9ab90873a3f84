"""Somebody else's server: listens on a TCP port until it is killed, knows nothing of systemd.

usage: listener.py PORT

It goes to the background once it listens, so that whoever runs it may count on it.
"""

import os
import signal
import socket
import sys

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen()
if os.fork():
    os._exit(0)
while True:
    signal.pause()
