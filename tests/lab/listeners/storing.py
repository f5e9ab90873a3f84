"""A server that has the manager keep its listening socket for the next run (sd_pid_notify_with_fds(3), FDSTORE=1).

usage: storing.py PORT

It takes the socket from file descriptor 3 where the manager has kept one, and binds it else.
"""

import array
import os
import socket
import sys

kept = "LISTEN_FDS" in os.environ
if kept:
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", int(sys.argv[1])))
    listener.listen()
path = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.connect(path)
    if not kept:
        descriptors = array.array("i", [listener.fileno()])
        manager.sendmsg([b"FDSTORE=1\nFDNAME=web"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    manager.send(b"READY=1")
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"kept" if kept else b"bound")
