"""Runs every benchmark in turn: `python -m benchmarks`."""

from benchmarks import dispatcher, limiter_booking, worker_throughput


def main() -> None:
    """Run them and print their tables."""
    for benchmark in (dispatcher, limiter_booking, worker_throughput):
        title = benchmark.__name__.rpartition(".")[2].replace("_", " ")
        print(f"--- {title}", flush=True)
        benchmark.main()
        print()


if __name__ == "__main__":
    main()
