"""Storing the answer to an ask with ``secret``, before it is given: the answer itself only names it."""

from secrets import token_urlsafe
from typing import Final, Literal

from planmesh.connection import Connection
from planmesh.errors import Busy
from planmesh.schemas import subjects
from planmesh.schemas.secrets import misfit
from planmesh.schemas.subjects import Address

_TRIES: Final = 3
_PUBLISH_S: Final = 5.0


async def store(
    connection: Connection, at: Address, step: str, verb: Literal["answer", "review", "reply"], actor: str, text: str
) -> str:
    """Store *text* for the ask *step*, to be named by the command *verb* of *actor*.

    It is kept until the plan ends, or for as long as the settings say; nobody but the executor can read it.

    Returns:
        The id by which the command names it.

    Raises:
        ValueError: It is empty, or too long; the error does not repeat it.
        Busy: The server does not take it now. Nothing was answered.
        Unusable: Not allowed, or closed.
    """
    if wrong := misfit(text):
        raise ValueError(wrong)
    for left in reversed(range(_TRIES)):
        # Another one each time: a subject is written once, and after a time-out nobody knows whether it was.
        name = token_urlsafe(18)
        try:
            await connection.publish(
                subjects.secret(at, step, verb, actor, name),
                text.encode(),
                expect_last_on_subject=0,
                timeout_s=_PUBLISH_S,
            )
        except Busy as error:
            if not error.ambiguous or not left:
                raise
        else:
            return name
    raise AssertionError
