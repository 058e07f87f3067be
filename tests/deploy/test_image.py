"""The Dockerfile, without Docker: what it copies is there, what it installs is locked, it runs us."""

from __future__ import annotations

import json
import re
import tomllib

from sluicegate.settings import HttpSettings
from tests.deploy.rendering import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STAGES = DOCKERFILE.split("\nFROM ")[1:]


def instructions(name: str, text: str = DOCKERFILE) -> list[str]:
    """Return the arguments of each such instruction."""
    return re.findall(rf"^{name} +(.+?) *$", text, re.MULTILINE)


def test_both_bases_are_pinned_and_have_one_python() -> None:
    """What is compiled for one Python and C library runs on the other, and tomorrow's build is today's."""
    bases = dict(argument.split("=") for argument in instructions("ARG"))
    assert set(bases) == {"BUILD_IMAGE", "RUNTIME_IMAGE"}
    assert [stage.split()[0] for stage in STAGES] == ["${BUILD_IMAGE}", "${RUNTIME_IMAGE}"]
    build, runtime = (re.fullmatch(r"python:(3\.\d+\.\d+)-(slim-)?(\w+)", base) for base in bases.values())
    assert build and runtime
    assert (build[1], build[3]) == (runtime[1], runtime[3])
    minor = int(build[1].split(".")[1])
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14" and 11 <= minor < 14


def test_what_is_copied_is_in_the_build_context_and_nothing_else_is() -> None:
    """A secret or a cache that lies about in the folder cannot reach an image."""
    first, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    copied = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    assert first == "*"
    assert {entry.removeprefix("!") for entry in allowed if entry.startswith("!")} == copied
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) <= copied


def test_every_package_is_installed_by_its_hash() -> None:
    """A package that was exchanged behind its version is refused."""
    installs = [line for line in instructions("RUN") if '"install"' in line]
    assert len(installs) == 2 and all("--require-hashes" in line for line in installs)
    for name in re.findall(r'"(requirements/\w+\.lock)"', DOCKERFILE):
        for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip()):
            assert re.match(r"[\w.-]+==[\w.]+", entry) and "--hash=sha256:" in entry, entry[:80]


def test_the_image_runs_our_command_as_nobody_in_particular() -> None:
    """Kubernetes refuses a user that it cannot tell from root; a shell would swallow SIGTERM."""
    final = STAGES[-1]
    assert instructions("USER", final) == ["65532:65532"]
    assert [json.loads(line) for line in instructions("ENTRYPOINT", final)] == [["sluicegate"]]
    assert "sluicegate" in PYPROJECT["project"]["scripts"]
    assert instructions("EXPOSE", final) == [str(HttpSettings().port)]
    # Each in exec form: a base without a shell will do.
    assert all(line.startswith("[") for line in instructions("(?:RUN|CMD|ENTRYPOINT)", final))
