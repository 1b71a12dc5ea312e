"""Three kinds of error, because whoever meets one can do three things.

Anything else that is raised is a bug, and keeps its traceback. A refusal is not an error, it is an event.
"""


class PlanmeshError(Exception):
    """The base of every error that planmesh raises on purpose; its text is for the user."""


class Poison(PlanmeshError):
    """This message will never work: it is set aside where an operator can see it (``planmesh poison``)."""


class Busy(PlanmeshError):
    """Not now: whatever is needed is slow, full or away. Try again later.

    Attributes:
        ambiguous: Nobody said no: it may have been carried out.
    """

    ambiguous: bool = False


class Conflict(PlanmeshError):
    """Someone was faster: what this was decided on is no longer so. Read again and decide again."""


class Unusable(PlanmeshError):
    """The environment cannot serve planmesh (server, configuration, credentials); the text says what to do."""
