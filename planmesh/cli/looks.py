"""How a status looks: a sign, a word and a colour. The word is always there; sign and colour only repeat it.

Colours are the terminal's own (ANSI), so that they suit a dark and a light background alike: green for what is
done, blue for what runs, magenta for what waits for a person, red for what needs one because it went wrong.
"""

from typing import Final, NamedTuple

from planmesh.schemas.state import PlanStatus, StepStatus


class Look(NamedTuple):
    """Attributes: sign: one character, one cell wide; word: ten characters at most; style: rich's."""

    sign: str
    word: str
    style: str


STEP: Final[dict[str, Look]] = {
    StepStatus.PENDING: Look("○", "pending", "dim"),
    StepStatus.DISPATCHED: Look("●", "running", "blue"),
    StepStatus.WAITING: Look("◆", "waiting", "magenta"),
    StepStatus.COMPLETED: Look("✓", "completed", "green"),
    StepStatus.FAILED: Look("✗", "failed", "red"),
    StepStatus.OUTCOME_UNKNOWN: Look("!", "unknown", "red"),
    StepStatus.REJECTED: Look("✗", "rejected", "red"),
    StepStatus.SKIPPED: Look("»", "skipped", "cyan"),
    StepStatus.NOT_TAKEN: Look("–", "not taken", "dim"),  # noqa: RUF001 - one cell wide, and no minus
    StepStatus.CANCELLED: Look("–", "cancelled", "dim"),  # noqa: RUF001
    "paused": Look("‖", "paused", "magenta"),
    "superseded": Look("–", "superseded", "dim"),  # noqa: RUF001
}
RETRYING: Final = Look("↻", "retrying", "blue")
"""A task that waits for its next attempt: nobody has to do anything."""

PLAN: Final = {
    PlanStatus.ABSENT: Look("○", "not there", "dim"),
    PlanStatus.DRAFT: Look("○", "draft", "magenta"),
    PlanStatus.RUNNING: Look("●", "running", "blue"),
    PlanStatus.WAITING: Look("◆", "waiting", "magenta"),
    PlanStatus.PAUSED: Look("‖", "paused", "red"),
    PlanStatus.COMPLETED: Look("✓", "completed", "green"),
    PlanStatus.FAILED: Look("✗", "failed", "red"),
    PlanStatus.CANCELLED: Look("–", "cancelled", "dim"),  # noqa: RUF001
    PlanStatus.REFUSED: Look("✗", "refused", "red"),
}
