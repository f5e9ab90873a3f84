"""A user's process whose socket was born in a cgroup that has the name of a system unit, and that is in init.scope.

usage: in_anothers_name.py ADDRESS PORT UNIT

On SIGUSR1 the socket is on its way to somebody who never takes it, and no process has it.

The cgroups below user@UID.service are delegated to the user, who names them, and moves between them.
"""

import os
import signal
import socket
import sys

base = f"/sys/fs/cgroup/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
birth = f"{base}/app.slice/{sys.argv[3]}"


def move_to(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")


os.makedirs(birth, exist_ok=True)
move_to(birth)
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
move_to(base + "/init.scope")
near, far = socket.socketpair()


def let_go(_signal, _frame):
    socket.send_fds(near, [b"."], [listener.fileno()])
    listener.close()


signal.signal(signal.SIGUSR1, let_go)
while True:
    signal.pause()
