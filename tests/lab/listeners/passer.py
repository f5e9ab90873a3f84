"""Binds a TCP port, or takes the listening socket that it was started with, hands it to whoever waits at a UNIX socket, and
is gone, or keeps it as well and says so in /run/handed.

usage: passer.py PORT|fd SOCKET [keep]
"""

import socket
import sys
import time

if sys.argv[1] == "fd":
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(("", int(sys.argv[1])))
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
    receiver.connect(sys.argv[2])
    socket.send_fds(receiver, [b"."], [listener.fileno()])
    receiver.recv(1)
if "keep" in sys.argv:
    open("/run/handed", "w").close()
while "keep" in sys.argv:
    time.sleep(60)
