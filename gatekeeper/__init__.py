"""The gatekeeper: how people meet the mesh.

It follows the log, and tells reviewers what a gate asks of them (`rounds.py` and `notice.py`, pure; `letters.py`, the
wording; `notify.py`, the channels; `claims.py`, each notice once), and operators what stands still (`news.py`, pure;
`bulletin.py`). It opens no gate: whoever answers does so by a command, and the executor judges it.

Reads ``plans.>`` and ``poison.>``. Writes ``notices.>`` before a notice is sent, and then
``commands.….notified.gatekeeper``: what became of it.
"""
