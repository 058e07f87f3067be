"""`python -m benchmarks [NAME ...]`: runs the named benchmarks, or all; `--list` only names them."""

from __future__ import annotations

import importlib
import sys

_BENCHMARKS = {
    "dispatcher": "the keyed dispatcher and the offset tracker, with no work",
    "duel": "our limiter, others and plain backoff keep one provider's limit side by side (half an hour)",
    "limiter_booking": "what a booking costs Redis, and how exactly a waiter wakes",
    "limiter_faults": "what the limit was exceeded by, and for how long calls paused, when Redis goes away",
    "limiter_cost": "what a call costs our process, by callers waiting and by processes",
    "makespan": "1,500 calls at 50 requests/s, nothing tuned, beside plain backoff",
    "relay_capacity": "records a second that a relay hands on, memory of what it holds, and how both grow",
    "relay_fidelity": "lateness and bursts of releases, our heap beside a FIFO tier (5 minutes)",
    "relay_recovery": "what a kill -9 of one of two relays costs, and a rollout",
    "state_scripts": "what an event's scripts cost our process, beside calling them one by one",
    "worker_growth": "a worker's CPU, speed and memory by workers, calls, keys, partitions, size (5 minutes)",
    "worker_latency": "a lone event from publishing to its result, beside stock Faust and a bare loop",
    "worker_throughput": "a whole worker beside stock Faust, a bare loop and HTTP alone (5 minutes)",
}


def main(names: list[str]) -> int:
    """Run benchmarks by name and return the exit code."""
    if names == ["--list"]:
        for name, text in _BENCHMARKS.items():
            print(f"{name:18} {text}")
        return 0
    if unknown := [name for name in names if name not in _BENCHMARKS]:
        print(f"no benchmark {unknown[0]}; there are: {', '.join(_BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or _BENCHMARKS:
        print(f"== {name}: {_BENCHMARKS[name]}", flush=True)
        module = "benchmarks.duel.__main__" if name == "duel" else f"benchmarks.{name}"
        importlib.import_module(module).main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
