"""A process that stays in execve(2): a file that it closes there is of a file system that does not answer. Whoever looks into
it waits as long as this process, which is the file system, is there.

usage: inexec.py FILE PIDFILE
"""

import os
import stat
import struct
import sys

import fuse

# Linux include/uapi/linux/fuse.h
GETATTR, OPEN = 3, 14

path, pid_file = sys.argv[1:]
with open(path, "w"):
    pass
kernel = fuse.mount(path, stat.S_IFREG | 0o644)
child = os.fork()
if child == 0:
    os.close(kernel)
    # Closed as the program is replaced, and flushed then.
    os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.execv("/bin/sleep", ["sleep", "infinity"])
with open(pid_file, "w") as file:
    file.write(str(child))


def answer(operation):
    if operation == GETATTR:
        return fuse.FILE
    if operation == OPEN:
        return struct.pack("=QII", 0, 0, 0)
    return None


fuse.serve(kernel, answer)
