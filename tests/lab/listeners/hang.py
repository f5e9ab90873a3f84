"""Mounts a file system that answers nobody: whoever asks it for a file sleeps in the kernel, and no signal wakes them,
until this process ends.

usage: hang.py FOLDER
"""

import ctypes
import os
import stat
import struct
import sys

INIT = 26  # FUSE_INIT, Linux include/uapi/linux/fuse.h

libc = ctypes.CDLL(None, use_errno=True)
if not os.path.exists("/dev/fuse"):
    os.mknod("/dev/fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
fuse = os.open("/dev/fuse", os.O_RDWR)
os.makedirs(sys.argv[1], exist_ok=True)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
if libc.mount(b"hang", sys.argv[1].encode(), b"fuse", 0, options.encode()):
    sys.exit(f"hang.py: cannot mount: {os.strerror(ctypes.get_errno())}")
while True:
    request = os.read(fuse, 1 << 17)
    _length, operation, number = struct.unpack_from("=IIQ", request)
    if operation == INIT:
        major, minor, ahead = struct.unpack_from("=III", request, 40)
        about = struct.pack("=IIIIHHIIHHI28x", major, minor, ahead, 0, 8, 8, 4096, 1, 0, 0, 0)
        os.write(fuse, struct.pack("=IiQ", 16 + len(about), 0, number) + about)
