"""What ``planmesh demo`` runs: a dependency audit of the Python environment that it runs in.

`audit.yaml` is the plan, `agents` are the functions that its steps call, `licences` and `report` are the two
things that they know: how freely a licence lets software be used, and what a person needs to see before saying
yes. Nothing here needs a network or a key, and nothing is invented: the input is the metadata of the running
interpreter. That metadata was written by strangers, and is treated so.
"""
