"""What the operating system says of another process: its CPU time and its memory (Linux only)."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # counted behind the name, which may hold blanks


def cpu_s(pid: int) -> float:
    """Return the user and system time that all threads of the process have taken (seconds)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S


def memory_mb(pid: int) -> float:
    """Return the resident memory of the process (MiB)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
