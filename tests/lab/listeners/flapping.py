"""Sixteen sockets on as many addresses of loopback, which do not listen. Each is in the way of whoever binds to its address, or is
not, as its SO_REUSEADDR is set and taken away all the time: half of them are at any moment.

usage: flapping.py PORT
"""

import random
import socket
import sys
import time

sockets = [socket.socket() for _ in range(16)]
for number, held in enumerate(sockets, 1):
    held.bind((f"127.0.0.{number}", int(sys.argv[1])))
with open("/tmp/flapping.ready", "w"):
    pass
while True:
    free = random.sample(sockets, 8)
    for held in sockets:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, held in free)
    time.sleep(0.003)
