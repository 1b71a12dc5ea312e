"""An object to a plan, problem by problem.

msgspec stops at the first thing that is wrong. Where it does, this goes on: field by field, step by step, so that a
document comes back with everything that is to be corrected, and the checks that follow work on what could be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.problems import Problems, listed, quoted, shown
from planmesh.schemas.codec import describe
from planmesh.schemas.goals import Goal
from planmesh.schemas.plan import MAX_STEPS, BodyStep, Each, Parameter, Plan, Policy, Step, StepBase

Kinds: TypeAlias = Mapping[str, type[StepBase]]
KINDS: Final[Kinds] = {str(kind.__struct_config__.tag): kind for kind in get_args(Step)}
BODY_KINDS: Final[Kinds] = {str(kind.__struct_config__.tag): kind for kind in get_args(BodyStep)}
VERSIONS: Final = (1,)

At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class StepDraft:
    """A step as far as it could be read.

    Attributes:
        index: Its place in the document.
        step: The step; a `StepBase` if nobody knows its kind. What could not be read has the field's default, or is
            empty, and is named in `unread`.
        unread: The fields that are not as the document has them.
        body: The steps of an `each`; their places are counted in it.
    """

    index: int
    step: StepBase
    unread: frozenset[str] = frozenset()
    body: tuple["StepDraft", ...] = ()


@dataclass(frozen=True, slots=True)
class PlanDraft:
    """A plan as far as it could be read.

    Attributes:
        plan: The plan, if all of it could be.
        inputs: The parameters that could be read; None if they could not.
        steps: The steps that are objects.
    """

    plan: Plan | None
    inputs: Mapping[str, Parameter] | None
    steps: tuple[StepDraft, ...]


def read_plan(value: dict[str, Any], problems: Problems, limits: Limits = LIMITS) -> PlanDraft:
    """What could be read of *value*; every problem with the rest of it is added."""
    count, most = _count(value.get("steps")), min(limits.steps, MAX_STEPS)
    if count > most:
        problems.add(
            "too_many_steps",
            f"a plan has at most {most:,} steps; this one has {count:,}",
            "steps",
            hint="split it into several plans",
        )
        return PlanDraft(None, None, ())
    try:
        plan = msgspec.convert(value, Plan)
    except msgspec.ValidationError as error:
        draft = _read_piecemeal(value, problems)
        if not problems:
            said, where = describe(error)
            problems.add("invalid_value", said, *where.split("/")[1:])
        return draft
    return PlanDraft(plan, plan.inputs, tuple(_drafted(*numbered) for numbered in enumerate(plan.steps)))


def read_policy(value: object, problems: Problems) -> Policy:
    """The policy that a goal states; every problem with it is added."""
    policy, complete = _read(Policy, value, problems, ("policy",))
    return policy if complete else Policy()


def _count(steps: object) -> int:
    """How many steps a list of steps has, with those of each `each`."""
    if not isinstance(steps, list):
        return 0
    return sum(1 + (_count(step.get("steps")) if isinstance(step, dict) else 0) for step in steps)


def _drafted(index: int, step: StepBase) -> StepDraft:
    body = tuple(StepDraft(*numbered) for numbered in enumerate(step.steps)) if isinstance(step, Each) else ()
    return StepDraft(index, step, body=body)


def _read_piecemeal(value: dict[str, Any], problems: Problems) -> PlanDraft:
    values, unread = _read_fields(Plan, value, problems, (), leave=("steps",))
    steps = value.get("steps")
    drafts: list[StepDraft] = []
    if isinstance(steps, list) and steps:
        drafts = _read_steps(steps, problems, (), KINDS)
    elif isinstance(steps, list):
        problems.add("invalid_value", "expected at least one step; found an empty list", "steps")
    elif "steps" in value:
        problems.add("wrong_type", f"expected a list of steps; found {shown(steps)}", "steps")
    return PlanDraft(None, None if "inputs" in unread else values.get("inputs", {}), tuple(drafts))


def _read_steps(steps: list[Any], problems: Problems, at: At, known: Kinds) -> list[StepDraft]:
    found = (_read_step(index, step, problems, (*at, "steps", index), known) for index, step in enumerate(steps))
    return [draft for draft in found if draft is not None]


def _read_step(index: int, value: Any, problems: Problems, at: At, known: Kinds) -> StepDraft | None:
    if not isinstance(value, dict):
        problems.add("wrong_type", f"expected a step, which is an object; found {shown(value)}", *at)
        return None
    kinds = listed(known, most=20)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in known:
        if "kind" not in value:
            problems.add("missing_field", "a step says of which `kind` it is", *at, hint=f"the kinds are {kinds}")
        elif isinstance(kind, str) and kind in KINDS:
            hint = f"in an `each` there may be {kinds}"
            problems.add("unknown_kind", f"a step of kind {kind} cannot be in an `each`", *at, "kind", hint=hint)
        elif isinstance(kind, str):
            hint = problems.nearest(kind, known, f"the kinds are {kinds}")
            problems.add("unknown_kind", f"there is no kind of step called {quoted(kind)}", *at, "kind", hint=hint)
        else:
            problems.add("wrong_type", f"expected one of {kinds}; found {shown(kind)}", *at, "kind")
        fields = _fields(StepBase)
        readable = {key: inner for key, inner in value.items() if key in fields}
        return _draft(index, StepBase, readable, problems, at, {"kind"})
    try:
        return _drafted(index, msgspec.convert(value, known[kind]))
    except msgspec.ValidationError:
        return _draft(index, known[kind], value, problems, at, set())


def _draft(
    index: int, kind: type[StepBase], value: dict[str, Any], problems: Problems, at: At, unread: set[str]
) -> StepDraft:
    steps = value.get("steps") if kind is Each else None
    apart = isinstance(steps, list) and bool(steps)
    values, not_read = _read_fields(kind, value, problems, at, leave=("steps",) if apart else ())
    body = tuple(_read_steps(steps, problems, at, BODY_KINDS)) if isinstance(steps, list) and apart else ()
    for field in _fields(kind).values():
        if field.required:
            values.setdefault(field.name, () if get_origin(_plain(field.type)[0]) is tuple else "")
    return StepDraft(index, kind(**values), frozenset(unread | not_read), body)


def read_goal(value: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """The fields of the goal *value* that could be read; every problem with the others is added."""
    values, _ = _read_fields(Goal, value, problems, ())
    return values


def check_fields(kind: type[Struct], value: Mapping[str, Any], problems: Problems, *at: str | int) -> None:
    """Add every problem with the fields of *kind* that *value* has; it may have others."""
    fields = _fields(kind)
    _read_fields(kind, {name: inner for name, inner in value.items() if name in fields}, problems, at)


# --- any struct --------------------------------------------------------------------------------------------

_OTHER_WORDS: Final[Mapping[str, str]] = {
    "needs": "after",
    "depends_on": "after",
    "requires": "after",
    "id": "name",
    "type": "kind",
    "with": "inputs",
    "args": "inputs",
    "retries": "retry",
    "output": "binding",
    "when": "branch",
}


@cache
def _fields(kind: type[Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _read_fields(
    kind: type[Struct], value: dict[str, Any], problems: Problems, at: At, leave: tuple[str, ...] = ()
) -> tuple[dict[str, Any], set[str]]:
    """The fields of *kind* that *value* has, and the names of those that could not be read, or not all of them.

    Args:
        leave: Fields that are looked at elsewhere; that they are missing is found here.
    """
    fields = _fields(kind)
    tag = kind.__struct_config__.tag_field
    called = _called(kind)
    for key in value:
        if key not in fields and key != tag:
            problems.add(
                "unknown_field",
                f"there is no field {quoted(key)} in {called}",
                *at,
                key,
                hint=_other_field(key, kind, fields, problems),
            )
    values: dict[str, Any] = {}
    unread: set[str] = set()
    for name, field in fields.items():
        if name not in value:
            if field.required:
                problems.add("missing_field", f"expected the field {quoted(name)} in {called}; it is missing", *at)
                unread.add(name)
        elif name == "version" and value[name] not in VERSIONS:
            said = f"this planmesh reads version {listed(map(str, VERSIONS))} of {called}; found {shown(value[name])}"
            problems.add("unknown_version", said, *at, name)
            unread.add(name)
        elif name not in leave:
            inner, complete = _read(field.type, value[name], problems, (*at, name))
            if not complete:
                unread.add(name)
            if inner is not _UNREAD:
                values[name] = inner
    return values, unread


def _called(kind: type[Struct]) -> str:
    if issubclass(kind, StepBase):
        return "a step" if kind is StepBase else f"a step of kind {kind.__struct_config__.tag}"
    return {"Permissions": "permissions", "Policy": "a policy"}.get(kind.__name__, f"a {kind.__name__.lower()}")


def _other_field(key: str, kind: type[Struct], fields: Mapping[str, Any], problems: Problems) -> str:
    other = _OTHER_WORDS.get(key.lower().replace("-", "_"))
    if other in fields or other == kind.__struct_config__.tag_field is not None:
        return f"did you mean {other}?"
    if issubclass(kind, StepBase):
        having = [tag for tag, other_kind in KINDS.items() if key in other_kind.__struct_fields__]
        if having:
            return f"it is a field of {listed(having)} steps"
    return problems.nearest(key, fields, f"its fields are {listed(fields, most=20)}")


_UNREAD: Final = object()


def _plain(kind: Any) -> tuple[Any, list[Meta]]:
    """A type without what is noted beside it, and the notes."""
    notes: list[Meta] = []
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        notes += (note for note in more if isinstance(note, Meta))
    return kind, notes


def _read(kind: Any, value: Any, problems: Problems, at: At) -> tuple[Any, bool]:
    """*value* as a *kind*, as far as it could be read (or `_UNREAD`), and whether that is all of it."""
    plain, notes = _plain(kind)
    origin = get_origin(plain)
    if origin in (Union, UnionType):
        others = [other for other in get_args(plain) if other is not NoneType]
        if value is None and len(others) < len(get_args(plain)):
            return None, True
        if len(others) == 1:
            return _read(others[0], value, problems, at)
    elif isinstance(plain, type) and issubclass(plain, Struct) and isinstance(value, dict):
        values, unread = _read_fields(plain, value, problems, at)
        return (_UNREAD, False) if unread or len(values) < len(value) else (plain(**values), True)
    elif origin is tuple and isinstance(value, list):
        read = [_read(get_args(plain)[0], inner, problems, (*at, index)) for index, inner in enumerate(value)]
        complete = all(complete for _, complete in read)
        for note in notes:
            least, most = note.min_length or 0, note.max_length or len(value)
            if not least <= len(value) <= most:
                said = f"expected a list {_length(note)}; found {shown(value)}"
                problems.add("invalid_value", said, *at)
                complete = False
        return tuple(inner for inner, _ in read if inner is not _UNREAD), complete
    elif origin is dict and isinstance(value, dict):
        of_key, of_value = get_args(plain)
        pairs = [
            (_read(of_key, key, problems, (*at, key)), _read(of_value, inner, problems, (*at, key)))
            for key, inner in value.items()
        ]
        complete = all(key[1] and inner[1] for key, inner in pairs)
        return {key[0]: inner[0] for key, inner in pairs if _UNREAD not in (key[0], inner[0])}, complete
    try:
        return msgspec.convert(value, kind), True
    except msgspec.ValidationError:
        code = "invalid_value" if _is_a(value, plain) else "wrong_type"
        choices = [choice for choice in get_args(plain) if isinstance(choice, str)] if isinstance(value, str) else []
        hint = problems.nearest(value, choices) if choices else ""
        problems.add(code, f"expected {_expected(plain, notes)}; found {shown(value)}", *at, hint=hint)
        return _UNREAD, False


def _is_a(value: Any, kind: Any) -> bool:
    """Whether *value* has the type of *kind*, and only breaks its rule."""
    if get_origin(kind) is Literal:
        return type(value) in {type(choice) for choice in get_args(kind)}
    if kind in (int, float):
        return type(value) is int or (kind is float and type(value) is float)
    return isinstance(kind, type) and isinstance(value, kind)


def _expected(kind: Any, notes: list[Meta]) -> str:
    description = "".join(note.description for note in notes if note.description)
    if get_origin(kind) is Literal:
        choices = [quoted(choice) if isinstance(choice, str) else str(choice) for choice in get_args(kind)]
        return choices[0] if len(choices) == 1 else f"one of {listed(choices, most=20)}"
    if kind is str:
        if description:
            return f"a text ({description})"
        if pattern := next((note.pattern for note in notes if note.pattern), None):
            return f"a text of the form {pattern}"
        return " ".join(filter(None, ["a text", *(_length(note, "characters") for note in notes)]))
    if kind in (int, float):
        return " ".join(["a whole number" if kind is int else "a number", *map(_range, notes)])
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_expected(*_plain(other)) for other in get_args(kind) if other is not NoneType)
    return {bool: "true or false", dict: "an object", tuple: "a list"}.get(get_origin(kind) or kind, "an object")


def _length(note: Meta, of: str = "items") -> str:
    if note.min_length and note.max_length:
        return f"of {note.min_length:,} to {note.max_length:,} {of}"
    if note.min_length:
        return f"of at least {note.min_length:,} {of}" if note.min_length > 1 else "that is not empty"
    return f"of at most {note.max_length:,} {of}" if note.max_length else ""


def _range(note: Meta) -> str:
    least = f"from {note.ge:,}" if note.ge is not None else f"above {note.gt:,}" if note.gt is not None else ""
    most = "" if note.le is None else f"to {note.le:,}" if note.gt is None else f"and at most {note.le:,}"
    return f"{least} {most}".strip()
