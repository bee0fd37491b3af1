"""The peak memory of this process alone.

Not `ru_maxrss` of getrusage(2): it also counts the process that started this one, up to its exec, so a large
test run makes a small child look large, and a growth above it look like none.
"""

from __future__ import annotations

import re
from pathlib import Path


def peak_kibibytes() -> int:
    """The most memory that this process ever had in use (`VmHWM` of proc_pid_status(5)), in KiB."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])
