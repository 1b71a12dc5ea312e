"""The language the services share: what is asked, what happened, what is handed out, and what it means.

Everything here is a value (a msgspec struct) or a pure function of values. Nothing here reads a clock,
opens a connection or imports another part of planmesh.
"""
