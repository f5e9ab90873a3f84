"""A file system that answers what it is told to, and nothing else."""

import contextlib
import ctypes
import os
import stat
import struct
import sys
import threading

# Linux include/uapi/linux/fuse.h
INIT = 26
VALID = 3600
# What GETATTR is answered of a file.
FILE = struct.pack("=QII6Q10I", VALID, 0, 0, 1, 4096, 8, 0, 0, 0, 0, 0, 0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0)

libc = ctypes.CDLL(None, use_errno=True)


def mount(path, mode):
    """Mounts it at this path, as a folder or a file; the file descriptor by which the kernel asks."""
    if not os.path.exists("/dev/fuse"):
        os.mknod("/dev/fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode={mode:o},user_id=0,group_id=0"
    if libc.mount(b"fuse.py", path.encode(), b"fuse", 0, options.encode()):
        sys.exit(f"fuse.py: cannot mount: {os.strerror(ctypes.get_errno())}")
    return fuse


def serve(fuse, answer, late=None):
    """`answer`: bytes for an operation, or `None`, after which whoever asked waits, or does so for `late` seconds."""

    def reply(number, about):
        with contextlib.suppress(FileNotFoundError):  # What wants no answer.
            os.write(fuse, struct.pack("=IiQ", 16 + len(about), 0, number) + about)

    while True:
        request = os.read(fuse, 1 << 17)
        _length, operation, number = struct.unpack_from("=IIQ", request)
        if operation == INIT:
            major, minor, ahead = struct.unpack_from("=III", request, 40)
            about = struct.pack("=IIIIHHIIHHI28x", major, minor, ahead, 0, 64, 64, 4096, 1, 0, 0, 0)
        else:
            about = answer(operation)
        if about is not None:
            reply(number, about)
        elif late is not None:
            threading.Timer(late, reply, (number, b"")).start()
