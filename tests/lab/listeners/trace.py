"""Traces a process, and sits on it: from its next signal on it is stopped, and not let go.

usage: trace.py PID [exit]

With exit, the process is stopped at its end as well, before it closes what it has open.
"""

import ctypes
import os
import sys
import time

SEIZE = 0x4206  # PTRACE_SEIZE, Linux include/uapi/linux/ptrace.h
TRACEEXIT = 0x40  # PTRACE_O_TRACEEXIT

libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])


def ptrace(request, data):
    if libc.ptrace(request, pid, None, ctypes.c_void_p(data)):
        sys.exit(f"trace.py: {os.strerror(ctypes.get_errno())}")


ptrace(SEIZE, TRACEEXIT if "exit" in sys.argv else 0)
while True:
    time.sleep(1000)
