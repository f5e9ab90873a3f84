"""A server that binds as the user of its unit, and whose worker is another's.

usage: two_users.py PORT USER
"""

import os
import pwd
import signal
import socket
import sys

listener = socket.create_server(("", int(sys.argv[1])))
if os.fork() == 0:
    user = pwd.getpwnam(sys.argv[2])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
while True:
    signal.pause()
