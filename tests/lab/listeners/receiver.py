"""Takes whatever file descriptors it is handed at a UNIX socket, and keeps them.

usage: receiver.py SOCKET
"""

import os
import socket
import sys

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
