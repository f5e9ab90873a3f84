"""Listens, in a process whose memory is locked: it maps a file of a file system that does not answer, until this process,
which is the file system, ends. Whoever wants to read its arguments or its environment waits for the lock.

usage: locked.py PORT FILE
"""

import ctypes
import os
import socket
import stat
import struct
import sys

import fuse

# Linux include/uapi/linux/fuse.h
GETATTR, OPEN, READ = 3, 14, 15
DIRECT_IO, KEEP_CACHE = 1, 2

fuse.libc.mmap.restype = ctypes.c_void_p
fuse.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
PROT_READ, MAP_PRIVATE = 1, 2

port, path = int(sys.argv[1]), sys.argv[2]
with open(path, "w"):
    pass
kernel = fuse.mount(path, stat.S_IFREG | 0o644)
listener = socket.create_server(("", port))
is_read, now_it_is = os.pipe()

if os.fork() == 0:
    # Whoever reads a page has it locked until it is there.
    listener.close()
    os.close(kernel)
    os.pread(os.open(path, os.O_RDONLY), 1, 0)
    os._exit(1)

if os.fork() == 0:
    os.close(kernel)
    os.read(is_read, 1)
    # Before it is mapped without the cache, the cache is emptied, and each of its pages waited for: with the lock of the
    # process's own memory, fuse_file_mmap(), Linux fs/fuse/file.c.
    fuse.libc.mmap(None, 4096, PROT_READ, MAP_PRIVATE, os.open(path, os.O_RDONLY), 0)
    os._exit(1)

listener.close()
opened = 0


def answer(operation):
    global opened
    if operation == GETATTR:
        return fuse.FILE
    if operation == OPEN:
        opened += 1
        return struct.pack("=QII", 0, DIRECT_IO | KEEP_CACHE if opened > 1 else 0, 0)
    if operation == READ:
        os.write(now_it_is, b".")
    return None


fuse.serve(kernel, answer)
