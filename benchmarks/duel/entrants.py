"""Who can take part in the duel."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.duel import peers_env

OURS = {
    "ours": ("sluicegate", "benchmarks.duel.ours:Ours"),
    "strict": ("sluicegate, strict", "benchmarks.duel.ours:OursStrict"),
    "recipe": ("plain backoff", "benchmarks.duel.recipe:Recipe"),
}
PEERS = {
    "litellm": ("LiteLLM v3 script", "benchmarks.duel.peers:LitellmV3"),
    "limits-moving": ("limits, moving window", "benchmarks.duel.peers:LimitsMoving"),
    "limits-sliding": ("limits, sliding counter", "benchmarks.duel.peers:LimitsSliding"),
    "pyrate-log": ("pyrate-limiter, log", "benchmarks.duel.peers:PyrateLog"),
    "pyrate-gcra": ("pyrate-limiter, GCRA", "benchmarks.duel.peers:PyrateGcra"),
    "throttled": ("throttled-py, GCRA", "benchmarks.duel.peers:ThrottledGcra"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """Who fights: the name in the table, the class, and the Python that has what it imports."""

    label: str
    contender: str
    python: Path
    is_peer: bool = False


def entrants(names: list[str]) -> tuple[list[Entrant], dict[str, str]]:
    """Return who fights, and why those do not who cannot."""
    here, absent = Path(sys.executable), {}
    chosen = [Entrant(label=OURS[n][0], contender=OURS[n][1], python=here) for n in names if n in OURS]
    if peers := [name for name in names if name in PEERS]:
        try:
            python = peers_env.prepare()
        except (OSError, peers_env.NotInstalledError) as exc:
            absent = {PEERS[name][0]: str(exc) for name in peers}
        else:
            chosen += [
                Entrant(label=PEERS[name][0], contender=PEERS[name][1], python=python, is_peer=True)
                for name in peers
            ]
    return chosen, absent
