"""What is wrong with a plan: every rule that can be broken, and the list that gathers what was found."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final, Protocol

from planmesh.schemas.goals import Problem

RULES: Final[Mapping[str, str]] = {
    # The text
    "malformed": "A document is JSON or YAML in UTF-8, and holds one object.",
    "duplicate_key": "An object has each key once.",
    "alias": "YAML is plain: without anchors, aliases and tags.",
    "too_large": "A document, a goal and a completed plan are no larger than the limits say.",
    "too_deep": "A document is nested no deeper than the limits say.",
    # Revisions
    "started": "A revision changes only what has not started.",
    # Plans that run for a step
    "unguarded": "What runs in mode safe does no harm without a gate before it.",
    # Models
    "no_model": "A goal or an instruction in words takes a model to make a plan of it.",
    "model_unavailable": "The model answers, sooner or later.",
    "model_failed": "The model's endpoint takes the request, and gives an answer.",
    "cut_short": "A model's answer has an end.",
    "widened": "A model's plan permits a step what its agent declares, and no more.",
    "not_allowed": "A plan allows only what the settings of the mesh let it allow.",
    # The form
    "unknown_version": "A document says a version that this planmesh reads, or none.",
    "unknown_kind": "A step is of one of the kinds that there are.",
    "unknown_field": "An object has the fields that its kind has, and no others.",
    "missing_field": "A field without a default is there.",
    "wrong_type": "A value has its field's type.",
    "invalid_value": "A value keeps its field's rule.",
    "too_many_steps": "A plan has no more steps than the limits say.",
    "too_many_emits": "A plan has no more emits than the limits say.",
    # Names
    "shadows": "Nothing in an `each` is called like something around it.",
    "duplicate_name": "A step's name is its own.",
    "duplicate_binding": "A binding is one step's own, or shared by steps of which only one can run.",
    "input_is_binding": "A binding is not the name of an input.",
    "reserved_name": "A binding or an input is not a word of the expression language.",
    "unknown_step": "A step that is named exists.",
    "unknown_name": "A name that an expression reads is a binding or an input.",
    "unknown_agent": "A task's agent is known to the mesh.",
    "unknown_tool": "A step permits only tools that its agent has, where it is one that uses tools.",
    "tool_not_permitted": "A step permits what the tools use that it permits.",
    "unknown_input": "A task gives its agent the inputs that the agent declares.",
    "missing_input": "A task gives its agent every input that the agent requires.",
    "model_not_allowed": "A step chooses a model that the settings allow.",
    "unknown_reviewer": "A reviewer is somebody: a person, a role, a team, the operators, or a service.",
    "too_few_reviewers": "A gate has as many reviewers as its quorum and its shares take.",
    "not_a_reviewer": "A share is of one of the gate's reviewers.",
    "bad_escalation": "Of several escalations, each comes later than the one before.",
    "bad_options": "The options of an ask are texts, each another one.",
    "no_default": "An ask that the default may answer has one.",
    "secret_answer": "A secret is a text that somebody enters: without options, and without a default.",
    "secret_read": "A secret that a plan asks for is read as the whole of an input of a task, and nowhere else.",
    # Expressions
    "bad_expression": "An expression or a template can be read.",
    # Order
    "self_reference": "A step does not wait for itself.",
    "cycle": "Steps do not wait for one another in a circle.",
    "waits_for_emit": "Nothing waits for an emit, which ends the plan.",
    "not_a_branch": "A branch belongs to a decide or a check.",
    "unknown_label": "A branch has a label of its decide or check.",
    "unreachable": "Every step can run, whatever it may take.",
    "never_bound": "A step that reads a binding can run together with a step that gives it.",
    "emits_together": "Of two emits, only one can be reached.",
    # Values
    "wrong_default": "A default has the type of its input, or is an answer to its ask.",
    "unknown_value": "A goal gives values for inputs that the plan declares.",
    "missing_value": "A goal gives a value for every input that has no default.",
    "wrong_value": "A value has the type that its input declares.",
    "secret": "A plan holds no secret: its log keeps every word for good.",
    # Advice
    "plan_without_limit": "A `plan` step says how many steps it may have.",
    "plan_not_validated": "A `plan` step says `validate = true`.",
    "run_of_other": "What is run is the plan of a `plan` step.",
    "agent_without_tools": "An `agent` names the tools that it may use.",
    "agent_without_limit": "An `agent` says how often it may go round.",
    "answer_compared": "What is compared with something is the value of an answer.",
    "answer_unread": "The answer to an `ask` is read.",
    "option_unrouted": "Every option of an `ask` leads somewhere.",
    "secret_in_log": "A question for a secret says `secret = true`.",
    # The goal
    "misplaced_policy": "A goal in words says what the policy of its plan is; a plan says it itself.",
    "nothing_wanted": "A goal says what is wanted: in words, by a plan, or by the name of a template.",
    "no_agents": "There is an agent that a model could use in a plan.",
    "unknown_template": "A template that a goal names is there.",
    "bad_template": "A template can be read.",
    "more_problems": "A list of problems ends where it would be too long to store.",
}
"""Every code that a `Problem` of the planner can have, and the rule that it stands for. What is wrong with a script by
itself has the codes of `planmesh.planner.language.findings.RULES`."""

NAMED: Final = 60  # characters of anything hostile that a message quotes
_POINTED = 200  # characters of a key in a pointer
_POINTER = 1_000  # characters of a pointer
_COMPARISONS = 20_000  # of names, to find near ones, for all problems of a document together
_MOST = 1_000  # problems of one document that are kept: they are stored in one message


class Origin(Protocol):
    """What a document was made of, if nobody has written it: a script, with what is wrong with it by itself."""

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    def placed(self, found: list[Problem]) -> list[Problem]:
        """What is wrong in all, given what was *found* in the document: each with its place in the script."""
        ...


class Problems:
    """Gathers problems, and gives them in the order of the document."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Problem]] = []
        self._dropped = 0
        self._left = _COMPARISONS
        self._origin: Origin | None = None

    def __bool__(self) -> bool:
        return bool(self._found) or (self._origin is not None and bool(self._origin.problems))

    def begin_with(self, origin: Origin) -> None:
        """Take in what is wrong with what the document was made of; that is where all the others are as well."""
        self._origin = origin

    def add(self, code: str, message: str, *at: str | int, hint: str = "") -> None:
        """Add one.

        Args:
            code: One of `RULES`.
            message: What was expected and what was found.
            at: The keys and indices that lead to the place.
            hint: What to do about it.
        """
        if len(self._found) >= _MOST:
            self._dropped += 1
            return
        step = at[1] if len(at) > 1 and at[0] == "steps" else -1
        problem = Problem(code=code, message=message, pointer=pointer(at), hint=hint)
        self._found.append((step if isinstance(step, int) else -1, problem))

    def nearest(self, name: str, known: Collection[str], instead: str = "") -> str:
        """A hint with the *known* name that is most like *name*; *instead*, if none is."""
        if len(name) > NAMED:
            return instead
        # Comparing is slow, and a hostile document has ten thousand names that nobody knows.
        self._left -= len(known)
        near = get_close_matches(name, known, n=1) if self._left >= 0 else []
        return f"did you mean {near[0]}?" if near else instead

    def listed(self, others: Iterable[Problem] = ()) -> list[Problem]:
        """All of them: first what is about the document as a whole, then step by step.

        Args:
            others: What somebody else has found in the same document; it comes last, unless a script has the order.
        """
        found = [problem for _, problem in sorted(self._found, key=lambda found: found[0])]
        if self._dropped:
            more = f"{self._dropped:,} more problems were found, and are not listed"
            found.append(Problem(code="more_problems", message=more, hint="correct these first"))
        found += others
        return found if self._origin is None else self._origin.placed(found)


class Inside(Problems):
    """Problems with a part of a document: places are said from there.

    Args:
        around: Where they are gathered.
        at: The keys and indices that lead to the part.
    """

    def __init__(self, around: Problems, *at: str | int) -> None:
        super().__init__()
        self._around = around
        self._at = at
        self._any = False

    def __bool__(self) -> bool:
        return self._any

    def add(self, code: str, message: str, *at: str | int, hint: str = "") -> None:
        self._any = True
        self._around.add(code, message, *self._at, *at, hint=hint)

    def nearest(self, name: str, known: Collection[str], instead: str = "") -> str:
        return self._around.nearest(name, known, instead)


def pointer(at: Iterable[str | int]) -> str:
    """A JSON Pointer (RFC 6901). Ends before a key that is too long to be of use."""
    parts: list[str] = []
    length = 0
    for key in at:
        part = str(key).replace("~", "~0").replace("/", "~1")
        length += len(part) + 1
        if len(part) > _POINTED or length > _POINTER:
            break
        parts.append(f"/{part}")
    return "".join(parts)


def quoted(text: str) -> str:
    """*text* as a message may show it: short, and with whatever hides or reorders text made visible."""
    return repr(text if len(text) <= NAMED else f"{text[:NAMED]}…")


def shown(value: Any) -> str:
    """What *value* is, in a few words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {quoted(value)}"
        case int() | float():
            written = str(value) if not isinstance(value, int) or abs(value) < 10**NAMED else "a huge one"
            return f"the number {written}"
        case list() | tuple():
            return "an empty list" if not value else f"a list of {len(value):,}"
        case dict():
            return "an empty object" if not value else f"an object of {len(value):,}"
        case _:
            return f"something that JSON has no form for ({type(value).__name__})"


def listed(names: Iterable[str], most: int = 8) -> str:
    """``a, b and c``, cut after *most*."""
    all_names = [name if len(name) <= NAMED + 2 else f"{name[:NAMED]}…" for name in names]
    if len(all_names) > most:
        rest = len(all_names) - most
        return f"{', '.join(all_names[:most])} and {rest:,} more"
    return " and ".join(chain([", ".join(all_names[:-1])] if len(all_names) > 1 else [], all_names[-1:]))
