"""What the operating system says of another process: its CPU time and its memory (Linux only)."""

from __future__ import annotations

import time
from pathlib import Path

# Every process has a clock of the CPU time of all its threads, those that ended too. Its id is built from
# the process id as clock_getcpuclockid(3) builds it; /proc counts the same in ticks of 10 ms.
_SCHEDULED = 2


def cpu_s(pid: int) -> float:
    """Return the user and system time that all threads of the process have taken (seconds)."""
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def memory_mb(pid: int) -> float:
    """Return the resident memory of the process (MiB)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
