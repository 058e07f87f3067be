"""`sluicegate demo`: the main job on the embedded stack, as an operator would run it, with a ledger."""

from sluicegate.cli.demo.command import demo

__all__ = ["demo"]
