"""A socket-activated server: systemd passes the listening sockets from file descriptor 3 on (sd_listen_fds(3))."""

import os
import select
import socket

listeners = [socket.socket(fileno=3 + number) for number in range(int(os.environ["LISTEN_FDS"]))]
while True:
    for listener in select.select(listeners, [], [])[0]:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"served by activation")
