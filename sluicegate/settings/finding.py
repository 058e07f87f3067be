"""Where a process finds its settings: the file given, else SLUICEGATE_CONFIG, else sluicegate.toml here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sluicegate.settings.load import load_settings
from sluicegate.settings.model import Settings

_VARIABLE = "SLUICEGATE_CONFIG"
_FILE = "sluicegate.toml"


def process_settings(config: Path | None = None) -> Settings:
    """Load the settings of this process. ConfigurationError also for a named file that is not there."""
    return load_settings(find_config(config, os.environ, Path()), os.environ)


def find_config(given: Path | None, environ: Mapping[str, str], folder: Path) -> Path | None:
    """Return the configuration file that applies; None when there is none and the defaults do."""
    if given is not None:
        return given
    if named := environ.get(_VARIABLE):
        return Path(named)
    here = folder / _FILE
    return here if here.is_file() else None
