"""Who runs this command, as far as the operating system knows: for audit records and for a pause's sign."""

from __future__ import annotations

import getpass
import socket


def who() -> str:
    """Return `account@machine`; a container's account may have no name, then it is `unknown`."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError):  # 3.13 raises OSError where earlier versions raised KeyError
        account = "unknown"
    return f"{account}@{socket.gethostname()}"
