"""A server on a TCP port that closes a connection before its client does, and is gone.

usage: closes_first.py PORT time-wait|fin-wait [CLIENT]

time-wait  the client closes as well: TIME_WAIT is left, as of any server, which sets SO_REUSEADDR
fin-wait   the client, in the background, never does: FIN_WAIT2 is left, of a server that does not set SO_REUSEADDR
CLIENT     the client's port
"""

import os
import signal
import socket
import sys

port, left = int(sys.argv[1]), sys.argv[2]
source = int(sys.argv[3]) if sys.argv[3:] else 0
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, left == "time-wait")
listener.bind(("127.0.0.1", port))
listener.listen()
client = socket.create_connection(("127.0.0.1", port), None, ("127.0.0.1", source))
connection, _ = listener.accept()
listener.close()
connection.close()
if left == "time-wait":
    client.close()
elif os.fork() == 0:
    while True:
        signal.pause()
