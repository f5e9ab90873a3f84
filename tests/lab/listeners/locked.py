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

# Linux include/uapi/linux/fuse.h
GETATTR, OPEN, READ, INIT = 3, 14, 15, 26
DIRECT_IO, KEEP_CACHE = 1, 2
VALID = 3600

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
PROT_READ, MAP_PRIVATE = 1, 2

port, path = int(sys.argv[1]), sys.argv[2]
if not os.path.exists("/dev/fuse"):
    os.mknod("/dev/fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
fuse = os.open("/dev/fuse", os.O_RDWR)
with open(path, "w"):
    pass
options = f"fd={fuse},rootmode=100644,user_id=0,group_id=0"
if libc.mount(b"locked", path.encode(), b"fuse", 0, options.encode()):
    sys.exit(f"locked.py: cannot mount: {os.strerror(ctypes.get_errno())}")

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", port))
listener.listen()
is_read, now_it_is = os.pipe()

if os.fork() == 0:
    # Whoever reads a page has it locked until it is there.
    listener.close()
    os.close(fuse)
    os.pread(os.open(path, os.O_RDONLY), 1, 0)
    os._exit(1)

if os.fork() == 0:
    os.close(fuse)
    os.read(is_read, 1)
    # Before it is mapped without the cache, the cache is emptied, and each of its pages waited for: with the lock of the
    # process's own memory, fuse_file_mmap(), Linux fs/fuse/file.c.
    libc.mmap(None, 4096, PROT_READ, MAP_PRIVATE, os.open(path, os.O_RDONLY), 0)
    os._exit(1)

listener.close()
attributes = struct.pack("=6Q10I", 1, 4096, 8, 0, 0, 0, 0, 0, 0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0)
opened = 0
while True:
    request = os.read(fuse, 1 << 17)
    _length, operation, number = struct.unpack_from("=IIQ", request)
    if operation == INIT:
        major, minor, ahead = struct.unpack_from("=III", request, 40)
        about = struct.pack("=IIIIHHIIHHI28x", major, minor, ahead, 0, 8, 8, 4096, 1, 0, 0, 0)
    elif operation == GETATTR:
        about = struct.pack("=QII", VALID, 0, 0) + attributes
    elif operation == OPEN:
        about = struct.pack("=QII", 0, DIRECT_IO | KEEP_CACHE if opened else 0, 0)
        opened += 1
    elif operation == READ:
        os.write(now_it_is, b".")
        continue
    else:
        continue
    os.write(fuse, struct.pack("=IiQ", 16 + len(about), 0, number) + about)
