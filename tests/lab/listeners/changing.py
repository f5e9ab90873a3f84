"""A client with one connection after the other, each to another peer, from the same port. One of them is always there.

usage: changing.py ADDRESS PORT

They set SO_REUSEPORT, and not SO_REUSEADDR. Nothing is left of a connection: it is reset.
"""

import itertools
import socket
import struct
import sys
import time

near_end = (sys.argv[1], int(sys.argv[2]))
peers = [socket.create_server((f"127.0.0.{number}", 9000)) for number in range(1, 100)]
before = []
for peer in itertools.cycle(peers):
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.bind(near_end)
    near.connect(peer.getsockname())
    far, _ = peer.accept()
    for end in before:
        end.close()
    before = [near, far]
    time.sleep(0.005)
