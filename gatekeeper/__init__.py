"""The gatekeeper: how people meet the mesh.

It follows the log, and tells reviewers what a gate asks of them (`rounds.py` and `notice.py`, pure; `notify.py`,
the channels). It opens no gate: whoever answers does so by a command, and the executor judges it.

Reads ``plans.>``. Writes ``commands.….notified.gatekeeper``: what became of each notice.
"""
