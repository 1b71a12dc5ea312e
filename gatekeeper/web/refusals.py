"""What a page says that cannot do what it was asked."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from planmesh.gatekeeper.identity import Doubt

REASON_CHARACTERS: Final = 4_096
INSTRUCTION_CHARACTERS: Final = 20_000
DOCUMENT_CHARACTERS: Final = 128 * 1024


class Refusal(NamedTuple):
    """An honest answer to what cannot be."""

    status: int
    title: str
    text: str
    what_now: str


_ASK_AGAIN: Final = "Open the link of the latest notice, or ask whoever runs planmesh to send you another one."
DOUBTS: Final[Mapping[Doubt, Refusal]] = {
    "forged": Refusal(
        403,
        "This link is not one of ours",
        "It is incomplete, was changed, or was signed with a key that is no longer used.",
        f"Copy the whole link from the notice. {_ASK_AGAIN}",
    ),
    "expired": Refusal(
        403,
        "This link has expired",
        "Links are good for a limited time, so that an old message in somebody's mailbox decides nothing.",
        _ASK_AGAIN,
    ),
    "other_gate": Refusal(
        403,
        "This link belongs to another gate",
        "A link is good for the one gate or question that it was sent for.",
        _ASK_AGAIN,
    ),
    "other_person": Refusal(
        403,
        "This was meant for somebody else",
        "What you opened was made for another person than the one you are here.",
        "Sign out and open it again, or open the link that was sent to you.",
    ),
    "other_form": Refusal(
        403,
        "This answer did not come from the page",
        "What was sent does not carry the mark of a page that we have shown. Nothing was decided.",
        "Open the page again and answer there.",
    ),
    "not_the_proxy": Refusal(
        403,
        "We cannot tell who you are",
        "The request names a user, and does not come from where people sign in. Nothing was decided.",
        "Open the pages by their usual address.",
    ),
    "unknown": Refusal(
        403,
        "We do not know you",
        "You have shown who you are, and nobody of that name is in the directory of this mesh.",
        "Ask whoever runs planmesh to add you to the directory.",
    ),
}
NOT_FOUND: Final = Refusal(
    404, "There is no such page", "Nothing is known under this address.", "Open the link of a notice, or your inbox."
)
NO_GATE: Final = Refusal(
    404,
    "There is no such gate or question",
    "The plan is not known, or a revision has taken it out.",
    "Open your inbox.",
)
NOT_ASKED: Final = Refusal(
    403,
    "You are not asked here",
    "You are known, and not among those who are asked.",
    "If you should be, ask whoever wrote the plan to name you.",
)
CROSS_SITE: Final = Refusal(
    403,
    "This answer came from another site",
    "Only the page itself can send an answer. Nothing was decided.",
    "Open the page again, over HTTPS if it is not on this machine, and answer there.",
)
TOO_LARGE: Final = Refusal(
    413,
    "That is too long",
    f"A comment has at most {REASON_CHARACTERS:,} characters, an instruction {INSTRUCTION_CHARACTERS:,}, edited steps "
    f"{DOCUMENT_CHARACTERS:,}. Nothing was decided.",
    "Go back and shorten it.",
)
BUSY: Final = Refusal(
    503,
    "We cannot read the plan now",
    "The mesh does not answer. Nothing is lost, and nothing goes on without you.",
    "Try again in a minute.",
)
UNCLEAR: Final = Refusal(
    503,
    "We do not know yet",
    "Your answer could not be confirmed in time. It may still count.",
    "Open the page again: it says what was decided. Answering once more does no harm.",
)
BUG: Final = Refusal(500, "Something is wrong on our side", "The page could not be made.", "Try again in a minute.")

REFUSED: Final[Mapping[str, str]] = {
    "stale": "What it asks has changed since you read it. Nothing was decided. Below is what it asks now.",
    "not_open": "Somebody was faster: it does not ask any more. Your answer changed nothing.",
    "ended": "The plan has ended. Your answer changed nothing.",
    "unknown_step": "The plan was revised, and no longer asks this. Your answer changed nothing.",
    "voted_already": "You have approved already. Each person counts once.",
    "not_a_reviewer": "You are not among those who are asked any more.",
    "level": "This takes the answer of people who have signed in, or of operators.",
    "reason_required": "Rejecting this gate takes a reason.",
}
"""What to say of a command that was refused, by its code. Of others, the reason is said."""
