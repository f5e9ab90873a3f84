"""Listens on a TCP port with a socket that an io_uring of this process has, and this process has no more.

usage: in_a_ring.py PORT
"""

import ctypes
import os
import signal
import socket
import sys

# Of every architecture (Linux include/uapi/asm-generic/unistd.h), and IORING_REGISTER_FILES of linux/io_uring.h.
IO_URING_SETUP, IO_URING_REGISTER, REGISTER_FILES = 425, 427, 2

libc = ctypes.CDLL(None, use_errno=True)


def syscall(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        sys.exit(f"in_a_ring.py: {os.strerror(ctypes.get_errno())}")
    return result


listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen()
parameters = ctypes.create_string_buffer(120)
ring = syscall(IO_URING_SETUP, 1, parameters)
syscall(IO_URING_REGISTER, ring, REGISTER_FILES, (ctypes.c_int * 1)(listener.fileno()), 1)
listener.close()
# io_uring_setup(2) sets FD_CLOEXEC, which a fork does not mind.
if os.fork():
    os._exit(0)
while True:
    signal.pause()
