"""The executor: the one writer of the log.

It reads commands and results, decides what they change (`plan.py`, pure), appends that to the log as one commit
(`decide.py`), and hands out what the log says is to be done (`dispatch.py`). Timers (`timers.py`), blobs (`blobs.py`)
and the running of agents (`work.py`) are loops of their own, and can run elsewhere: ``--only work``.

Reads ``commands.>``, ``results.*``, its own log and its own timers. Writes ``plans.>``, ``work.>``, ``outcomes.>``.
"""
