"""The bill of materials says what the lock says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "runtime.lock"


def bill() -> dict[str, Any]:
    """Return the bill as `make sbom` makes it."""
    command = [sys.executable, str(ROOT / "requirements" / "sbom.py"), str(LOCK)]
    told: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return told


def test_every_locked_package_is_in_the_bill_with_all_its_digests() -> None:
    """What is installed can be looked up by version and by file."""
    text = LOCK.read_text(encoding="utf-8")
    components = bill()["components"]
    assert {f"{each['name']}=={each['version']}" for each in components} == set(
        re.findall(r"^[\w.-]+==[^\s;]+", text, re.MULTILINE)
    )
    assert sum(len(each["hashes"]) for each in components) == text.count("--hash=sha256:")
    assert all(each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}" for each in components)


def test_the_bill_says_who_needs_a_package_and_is_the_same_every_time() -> None:
    """A finding in a package leads to what brings it in, and two bills of one lock do not differ."""
    first = bill()
    needs = {each["ref"]: each["dependsOn"] for each in first["dependencies"]}
    names = {ref: ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in needs}
    own = next(ref for ref, name in names.items() if name == "sluicegate")
    assert {"aiokafka", "redis", "httpx"} <= {names[ref] for ref in needs[own]}
    assert all(ref in needs for on in needs.values() for ref in on)
    assert first == bill()
