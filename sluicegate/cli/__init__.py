"""The command line: the only composition root."""

from sluicegate.cli.main import main

__all__ = ["main"]
