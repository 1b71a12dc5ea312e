"""The executor as a process."""

import subprocess
import sys

PROGRAM = """
import sys, threading, time
from planmesh.executor.__main__ import leave
threading.Thread(target=time.sleep, args=(float(sys.argv[1]),)).start()
print("said")
leave(3)
"""


def test_an_agent_that_was_given_up_on_does_not_keep_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "3600"], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.splitlines()[0]) == (3, "said")


def test_one_that_ends_in_time_ends_as_it_likes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "0.1"], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
