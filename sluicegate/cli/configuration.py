"""Where a command's settings come from: `--config`, else what any process of ours finds."""

from __future__ import annotations

from sluicegate.settings.finding import process_settings as command_settings

__all__ = ["command_settings"]
