"""Hurt a mesh, for as long as you like: ``python tests/chaos [--rounds N] [--seed S]``.

A round takes some seconds, and prints one line: its number, which is its seed, what was done to the mesh, and how
long it took. The first promise that is broken ends it, with the round to play again. In the end it says which harms
were done, and how often.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import structlog

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from rounds import play  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python tests/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first round")
    parser.add_argument("--at-once", type=int, default=2, help="so many meshes at a time")
    parser.add_argument("--keep", type=Path, help="an empty directory for the files of the meshes")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    directory = arguments.keep or Path(tempfile.mkdtemp(prefix="planmesh-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"files: {directory}")
    numbers = range(arguments.seed, arguments.seed + arguments.rounds)
    tally = asyncio.run(play(numbers, directory, at_once=arguments.at_once))
    print(f"{tally}\nEvery promise held.")


if __name__ == "__main__":
    main()
