"""A software bill of materials (CycloneDX 1.6, JSON) of what is installed, from the lock file alone.

`python requirements/sbom.py requirements/runtime.lock > sbom.json`. The lock names every package of every
platform with its version and the digests of its files, and who needs it, so the same lock always gives the
same bill: no network, no environment, no clock. Licences are not in a lock, hence not in here.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

_PACKAGE = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)\s*(?:;\s*(?P<marker>.*?))?\s*\\?$")
_DIGEST = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NEEDED_BY = re.compile(r"^\s+#\s+(?:via\s+)?(?P<name>[\w.-]+)")
_ROOT = Path(__file__).parents[1]


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """Return the bill of a lock's text; `project` is the table of that name in pyproject.toml."""
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    components: list[dict[str, Any]] = []
    needed_by: dict[str, list[str]] = {}
    for line in lock.splitlines():
        if package := _PACKAGE.match(line):
            components.append(_component(package))
        elif components and (digest := _DIGEST.search(line)):
            components[-1]["hashes"].append({"alg": "SHA-256", "content": digest[1]})
        elif components and (needs := _NEEDED_BY.match(line)) and needs["name"] != "via":
            needed_by.setdefault(components[-1]["bom-ref"], []).append(needs["name"])
    refs = {each["name"]: each["bom-ref"] for each in components} | {project["name"]: own}
    depends_on: dict[str, list[str]] = {ref: [] for ref in refs.values()}
    for ref, names in needed_by.items():
        for name in names:
            depends_on[refs[name]].append(ref)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(lock.encode()).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
            }
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(depends_on.items())],
    }


def _component(package: re.Match[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{package['name']}@{package['version']}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
        "hashes": [],
    }
    if package["marker"]:
        component["properties"] = [{"name": "python:marker", "value": package["marker"]}]
    return component


def main() -> None:
    """Write the bill of the lock that is named on the command line."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    json.dump(bill(Path(sys.argv[1]).read_text(encoding="utf-8"), project), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
