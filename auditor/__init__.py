"""The auditor keeps the record that people read: the log, as tables, as traces, and as answers.

It reads ``plans.*.*`` and folds each plan as the executor does (`planmesh.schemas.state`). What changed becomes rows
of an SQL database (`project.py`, pure; `tables.py`; `store.py`) and spans for an OpenTelemetry collector
(`spans.py`, pure; `collector.py`). It answers ``query.*`` (`read.py`, `query.py`). It writes nothing to any stream.

The tables are a projection: they can be deleted, and are made again from the log. Rows and the position up to which
the log has been read are one transaction, so that nothing is counted twice and nothing is left out.
"""
