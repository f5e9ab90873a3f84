"""Fills the queue of a UNIX datagram socket that nobody reads, until not one more message goes in.

usage: fill.py SOCKET
"""

import socket
import sys

sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.setblocking(False)
sender.connect(sys.argv[1])
try:
    for _ in range(100_000):
        sender.send(b"MESSAGE=filling\n")
except BlockingIOError:
    sys.exit(0)
sys.exit("it is never full")
