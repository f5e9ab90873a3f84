"""Processes that stay in execve(2): a file that they close there is of a file system that does not answer. Whoever looks into
one waits as long as this process, which is the file system, is there; or SECONDS, and the process does it again and again.

usage: inexec.py FILE PIDFILE [COUNT [SECONDS]]

COUNT 0: others may have the file open, and hang as they close it.
"""

import errno
import os
import stat
import struct
import sys

import fuse

# Linux include/uapi/linux/fuse.h
GETATTR, OPEN, IOCTL = 3, 14, 39

# Perl's files are closed as the program is replaced, and flushed then; it is there sooner than Python.
AGAIN = 'open F, "<", $ARGV[0] or die; exec $^X, "-e", $ARGV[1], @ARGV'

path, pid_file = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 1
with open(path, "w"):
    pass
kernel = fuse.mount(path, stat.S_IFREG | 0o644)
children = []
for _ in range(count):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(kernel)
        os.execv("/usr/bin/perl", ["perl", "-e", AGAIN, path, AGAIN])
with open(pid_file, "w") as file:
    file.write(" ".join(map(str, children)))


def answer(operation):
    if operation == GETATTR:
        return fuse.FILE
    if operation == OPEN:
        return struct.pack("=QII", 0, 0, 0)
    if operation == IOCTL:  # Whether it is a terminal.
        return struct.pack("=iIII", -errno.ENOTTY, 0, 0, 0)
    return None


fuse.serve(kernel, answer, float(sys.argv[4]) if len(sys.argv) > 4 else None)
