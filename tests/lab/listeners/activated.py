"""A socket-activated server: systemd passes the listening socket as file descriptor 3 (sd_listen_fds(3))."""

import socket

listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"served by activation")
