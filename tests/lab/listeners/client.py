"""A client with a connection to 127.0.0.1, which it keeps.

usage: client.py PEER_PORT [LOCAL_PORT]

Without LOCAL_PORT the kernel picks the near end's port. It goes to the background once it is connected.
"""

import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
if len(sys.argv) > 2:
    connection.bind(("127.0.0.1", int(sys.argv[2])))
connection.connect(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    os._exit(0)
while True:
    signal.pause()
