"""Input for a first run: chats written for this project, and texts that every installation has.

`chats.jsonl` holds short conversations between a customer and an agent, one message a line. Documents are
the descriptions of the Python packages that are installed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path

import orjson

from sluicegate.errors import BadEventError, ConfigurationError
from sluicegate.events.models import Document, Event, EventT, SupportChat, read_model
from sluicegate.events.strict_json import read_object

_LEAST_CHARACTERS = 500
_MOST_CHARACTERS = 12_000
_MEDIA_TYPES = {
    ".md": "text/markdown",
    ".rst": "text/x-rst",
    ".txt": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
}


def bundled_chats() -> tuple[SupportChat, ...]:
    """Return the bundled conversations, message by message, each conversation in its order."""
    lines = resources.files(__name__).joinpath("chats.jsonl").read_bytes().splitlines()
    return tuple(read_model(SupportChat, read_object(line)) for line in lines)


def installed_documents(installed: Iterable[Distribution] | None = None) -> tuple[Document, ...]:
    """Return the descriptions of installed packages, by name; very short ones are left out.

    A long one is cut after the last paragraph that ends within 12,000 characters.
    """
    found: dict[str, Document] = {}
    for package in distributions() if installed is None else installed:
        metadata = package.metadata
        text = _beginning(_field(metadata, "Description", ""))
        name = metadata["Name"]
        if len(text) >= _LEAST_CHARACTERS:
            content_type = _field(metadata, "Description-Content-Type", "text/plain")
            found[name.lower()] = Document(
                document_id=f"{name}-{package.version}",
                title=_field(metadata, "Summary", name),
                media_type=content_type.partition(";")[0].strip(),
                text=text,
            )
    return tuple(found[name] for name in sorted(found))


def chats_of(path: Path) -> tuple[SupportChat, ...]:
    """Read chat messages from JSON lines. ConfigurationError names the first line that is none."""
    return tuple(_lines(path, SupportChat))


def documents_of(path: Path) -> tuple[Document, ...]:
    """Read documents from JSON lines, or from the text files of a folder, by name.

    Raises ConfigurationError when there are none, or for the first line that is no document.
    """
    documents = tuple(_files(path) if path.is_dir() else _lines(path, Document))
    if not documents:
        raise ConfigurationError(f"{path} holds no documents: {', '.join(_MEDIA_TYPES)} files are read")
    return documents


def _lines(path: Path, model: type[EventT]) -> Iterator[EventT]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield read_model(model, read_object(line))
        except BadEventError as exc:
            raise ConfigurationError(f"{path}, line {number}: {exc}") from exc


def _files(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        media_type = _MEDIA_TYPES.get(path.suffix.lower())
        if media_type is None or not path.is_file():
            continue
        yield Document(
            document_id=path.relative_to(folder).as_posix(),
            title=path.stem,
            media_type=media_type,
            text=path.read_text(encoding="utf-8", errors="replace"),
        )


def _field(metadata: PackageMetadata, name: str, default: str) -> str:
    return metadata[name] if name in metadata else default  # noqa: SIM401 - its type has no `get`


def _beginning(text: str) -> str:
    text = text.strip()
    if len(text) <= _MOST_CHARACTERS:
        return text
    ends = [match.start() for match in re.finditer(r"\n\s*\n", text[:_MOST_CHARACTERS])]
    return text[: ends[-1] if ends else _MOST_CHARACTERS].rstrip()


def event_json(event: Event) -> bytes:
    """Return an event as the JSON value of its record; fields that are not set are left out."""
    return orjson.dumps(event.model_dump(mode="json", exclude_none=True))
