"""Tell stories: ``python tests/simulation SEED`` one of them, ``python tests/simulation --from A --to B`` many."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from story import tell


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", dest="last", type=int, default=10_000)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.last) if arguments.seed is None else [arguments.seed]
    started, commits = time.perf_counter(), 0
    for seed in seeds:
        try:
            commits += tell(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    print(f"{len(seeds)} stories, {commits} commits, {time.perf_counter() - started:.1f} s: every promise held")


if __name__ == "__main__":
    main()
