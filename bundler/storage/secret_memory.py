"""Keeps the memory of this process off the disk and away from other processes, while it holds a secret."""

from __future__ import annotations

import ctypes
import resource

PR_SET_DUMPABLE = 4
"""<linux/prctl.h>. See prctl(2), PR_SET_DUMPABLE: no core file, and no ptrace(2) by the same user."""


def hide_memory() -> None:
    """Write no core file from now on and let nobody of the same user read this process's memory.

    To be called before a secret is read. It cannot be undone, and child processes inherit only the limit.
    A kernel that knows no prctl(2) leaves the limit, which holds by itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "prctl"):
        library.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
