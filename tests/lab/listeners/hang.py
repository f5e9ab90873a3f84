"""Mounts a file system that answers nobody: whoever asks it for a file sleeps in the kernel, and no signal wakes them,
until this process ends.

usage: hang.py FOLDER
"""

import os
import stat
import sys

import fuse

os.makedirs(sys.argv[1], exist_ok=True)
fuse.serve(fuse.mount(sys.argv[1], stat.S_IFDIR), lambda _operation: None)
