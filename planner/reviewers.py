"""What gates and asks put to whom: whether those who are named are somebody, are enough, and can answer."""

from collections.abc import Iterable
from typing import Final

from planmesh.directory import Directory
from planmesh.planner.decode import At, StepDraft
from planmesh.planner.problems import Problems, quoted
from planmesh.schemas.answers import misfit
from planmesh.schemas.plan import OPERATORS, SERVICE, Ask, Gate
from planmesh.schemas.quorum import is_enough
from planmesh.schemas.subjects import is_token

UNKNOWN_REVIEWER: Final = "unknown_reviewer"

_WRITE: Final = "write person:NAME, service:SPACE, or role:operator for everyone with an operator's credentials"
_MAKE: Final = "make it with `planmesh credentials submitter"
_LIST: Final = "`planmesh reviewers list` shows who there is"


def check_asked(one: StepDraft, directory: Directory | None, problems: Problems) -> None:
    """Add a problem for each thing that is wrong with whom a gate or an ask asks, and what."""
    step = one.step
    assert isinstance(step, Gate | Ask)  # whoever calls has looked
    known = None if directory is None or directory.is_empty else directory
    services = None if directory is None else directory.services
    at = ("steps", one.index)
    everybody = _check_names(one, known, services, problems)
    if "escalate" not in one.unread:
        _check_order(step, at, problems)
    if isinstance(step, Ask):
        _check_question(one, step, at, problems)
    elif not one.unread & {"reviewers", "quorum", "shares", "escalate"}:
        _check_shares(step, at, problems)
        if everybody:
            _check_enough(step, known, at, problems)


def _check_names(one: StepDraft, known: Directory | None, services: frozenset[str] | None, problems: Problems) -> bool:
    """Whether everybody who is named is somebody."""
    step = one.step
    assert isinstance(step, Gate | Ask)
    # A name that could not be read is missing here, and moves the others.
    named = [(reviewer, _place(one, "reviewers", index)) for index, reviewer in enumerate(step.reviewers)]
    for level, escalation in enumerate(step.escalate):
        named += [(reviewer, _place(one, "escalate", level, "to", at)) for at, reviewer in enumerate(escalation.to)]
    known_all = True
    for reviewer, place in named:
        known_all = _check_name(reviewer, known, services, problems, "steps", one.index, *place) and known_all
    return known_all


def _place(one: StepDraft, field: str, *rest: str | int) -> At:
    return (field,) if field in one.unread else (field, *rest)


def _check_name(
    reviewer: str, known: Directory | None, services: frozenset[str] | None, problems: Problems, *at: str | int
) -> bool:
    kind, _, name = reviewer.partition(":")
    if f"{kind}:" == SERVICE and is_token(name):
        if services is None or name in services:
            return True
        hint = problems.nearest(reviewer, [f"{SERVICE}{one}" for one in services], f"{_MAKE} {name}`")
        problems.add(UNKNOWN_REVIEWER, f"there is no service called {quoted(name)}", *at, hint=hint)
        return False
    if known is not None and known.knows(reviewer):
        return True
    if known is None and (reviewer == OPERATORS or (kind == "person" and is_token(name))):
        return True
    hint = _WRITE if known is None else problems.nearest(reviewer, known.reviewers, _LIST)
    problems.add(UNKNOWN_REVIEWER, f"nobody is found under the reviewer {quoted(reviewer)}", *at, hint=hint)
    return False


def _check_order(step: Gate | Ask, at: At, problems: Problems) -> None:
    for level in range(1, len(step.escalate)):
        earlier, later = step.escalate[level - 1].after_s, step.escalate[level].after_s
        if later <= earlier:
            said = f"expected more than the {earlier:g} seconds of the escalation before; found {later:g}"
            hint = "name everybody whom it comes to at the same time in one `to`"
            problems.add("bad_escalation", said, *at, "escalate", level, "after_s", hint=hint)


def _check_shares(gate: Gate, at: At, problems: Problems) -> None:
    named = (*gate.reviewers, *(reviewer for escalation in gate.escalate for reviewer in escalation.to))
    for index, share in enumerate(gate.shares):
        if share.of not in named:
            said = f"a share is of {quoted(share.of)}, who is not among the reviewers of this gate"
            hint = problems.nearest(share.of, named, "add it to `reviewers`")
            problems.add("not_a_reviewer", said, *at, "shares", index, "of", hint=hint)


def _check_enough(gate: Gate, known: Directory | None, at: At, problems: Problems) -> None:
    """Whether the gate opens if everybody approves who ever may."""
    named = {*gate.reviewers, *(reviewer for escalation in gate.escalate for reviewer in escalation.to)}
    if not {share.of for share in gate.shares} <= named:
        return
    people = _people(named, known)
    if OPERATORS in named:  # nobody knows how many there are
        people += [(OPERATORS,)] * gate.approvals
    if is_enough(gate.quorum, gate.shares, people):
        return
    if gate.quorum > len(people):
        field, takes = "quorum", f"takes {gate.quorum} approvals and has {len(people)} who can give one"
    else:
        field, takes = "shares", f"takes approvals of {gate.approvals} people in these shares, and nobody counts twice"
    said = f"this gate {takes}, so it could never open"
    problems.add("too_few_reviewers", said, *at, field, hint="name more reviewers, or lower it")


def _people(named: Iterable[str], known: Directory | None) -> list[tuple[str, ...]]:
    """For each one who may answer, as what."""
    found: dict[str, list[str]] = {}
    for reviewer in sorted(named):
        if known is None or reviewer.startswith(SERVICE):
            people: Iterable[str] = () if reviewer == OPERATORS else (reviewer,)
        else:
            people = known.people_of(reviewer)
        for person in people:
            found.setdefault(person, []).append(reviewer)
    return [tuple(groups) for groups in found.values()]


def _check_question(one: StepDraft, ask: Ask, at: At, problems: Problems) -> None:
    if one.unread & {"type", "options"}:
        return
    if ask.options and ask.type != "text":
        said = f"options are texts, and this ask takes a {ask.type}"
        problems.add("bad_options", said, *at, "options", hint="leave out `type`, or the options")
        return
    for index, option in enumerate(ask.options):
        if not option.strip() or option in ask.options[:index]:
            said = "an option is there twice" if option.strip() else "an option is empty"
            problems.add("bad_options", said, *at, "options", index)
    if "default" not in one.unread:
        if ask.default is not None and (wrong := misfit(ask.default, ask.type, ask.options)):
            problems.add("wrong_default", f"the default is no answer: {wrong}", *at, "default")
        if ask.default is None and ask.on_overdue == "default":
            said = "the default is to be the answer when it is overdue, and there is none"
            hint = "add `default`; or leave this out, and it stays open"
            problems.add("no_default", said, *at, "on_overdue", hint=hint)
    if ask.secret:
        _check_secret(one, ask, at, problems)


def _check_secret(one: StepDraft, ask: Ask, at: At, problems: Problems) -> None:
    if ask.type != "text":
        said = f"a secret is a text, and this ask takes a {ask.type}"
        problems.add("secret_answer", said, *at, "type", hint="leave out `type`")
    if ask.options:
        said = "whoever reads the plan would know the secret: it is one of the options"
        problems.add("secret_answer", said, *at, "options", hint="leave out the options, or `secret`")
    if ask.default is not None and "default" not in one.unread:
        said = "whoever reads the plan would know the secret: it has a default"
        problems.add("secret_answer", said, *at, "default", hint="leave out the default, or `secret`")
