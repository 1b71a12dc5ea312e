"""A gate as its reviewer reads it: what leads the review, what ran, what an approval lets go, and how to answer."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from rich.text import Text

from planmesh.cli.render import WIDEST, columns
from planmesh.cli.standing import SHORT_DIGEST, Remedy, offer, possible_answers
from planmesh.cli.text import (
    ago,
    clock,
    counted,
    duration,
    listed,
    one_line,
    paragraph,
    size,
    until,
    value,
    whole,
)
from planmesh.schemas.answers import expected
from planmesh.schemas.events import Release
from planmesh.schemas.four_eyes import same
from planmesh.schemas.payload import Payload, canonical, digest
from planmesh.schemas.plan import Permissions
from planmesh.schemas.queries import GateRow
from planmesh.schemas.revision import Change

_MOST: Final = 20  # steps that are listed
_INPUT_CHARACTERS: Final = 400


def review(
    gate: GateRow,
    now: datetime,
    width: int,
    *,
    values: Mapping[str, Any] = {},
    command: str | None = "planmesh",
    heading: str = "What you can do",
    me: str = "",
) -> list[Text]:
    """Everything that an approval of *gate* is about; of an ask, the question and what it takes.

    Args:
        values: Values of blobs that were fetched, by SHA-256.
        command: How a command line begins that leads to this mesh; None: say nothing of how to answer.
        heading: Of that.
        me: Who reads it, if that is known.
    """
    rule = Text("  " + "─" * (min(width, WIDEST) - 4), style="dim")
    lines = [*_question(gate, now, min(width, WIDEST)), Text()]
    for shown in gate.shown:
        lines += [rule, *_shown(shown, values, width), rule, Text()]
    if gate.kind == "ask":
        lines += [*_takes(gate, min(width, WIDEST)), *_deadline(gate, now)]
    else:
        lines += [*_upstream(gate), *_releases(gate, width), *_votes(gate, me), *_deadline(gate, now)]
        lines.append(whole(Text(f"  Digest  {gate.digest}", style="dim")))
    if command is not None:
        lines += [Text(), Text(f"  {heading}", style="bold"), *offer(_answers(gate, command, me), width)]
    return lines


def _question(gate: GateRow, now: datetime, width: int) -> list[Text]:
    title = Text("  ◆ ", style="magenta").append(gate.step, "bold").append(f" of {gate.plan}", "not bold")
    if gate.label and gate.label != gate.prompt:
        title.append(f"   {one_line(gate.label)}", "dim")
    asked = f"  for {listed(gate.reviewers)}, open since {clock(gate.since, now)} ({ago(gate.since, now)})"
    asked += f", asked {gate.round} times" if gate.round > 1 else ""
    asked += f", escalated to {listed(gate.escalated)}" if gate.escalated else ""
    lines = [title, Text(asked, style="dim")]
    if gate.prompt:
        lines += [Text(), *paragraph(gate.prompt, width, "  ", "bold")]
    if gate.because or gate.changes:
        said = one_line(gate.because, 1_000) or "what it would release has changed"
        lines += [Text(), *paragraph(f"It asks again: {said}", width, "  ", "magenta")]
        lines += [line for change in gate.changes[:_MOST] for line in _change(change, width)]
        if len(gate.changes) > _MOST:
            lines.append(Text(f"    … and {counted(len(gate.changes) - _MOST, 'more change')}", style="dim"))
    return lines


def _change(change: Change, width: int) -> list[Text]:
    sign, style = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "blue")}[change.kind]
    lines = [
        Text().append(f"    {sign} ", style).append(change.step or "the plan", "bold").append(f" {change.kind}", "dim")
    ]
    if change.kind != "removed":
        for field in change.fields:
            before = f"{value(field.before, 200)} → " if change.kind == "changed" else ""
            lines += paragraph(f"{field.field} = {before}{value(field.after, 200)}", width, "        ")
    return lines


def _shown(payload: Payload, values: Mapping[str, Any], width: int) -> list[Text]:
    what = payload.value
    if payload.blob is not None:
        if payload.blob.sha256 not in values:
            said = f"  ({size(payload.blob.size_bytes)}, which could not be fetched: {payload.blob.sha256})"
            return [Text(said, style="red")]
        what = values[payload.blob.sha256]
    said = what if isinstance(what, str) else value(what, 100_000)
    # To the last word, and without markup: a reviewer reads what will be released.
    return paragraph(said.rstrip("\n"), width, "  ")


def _upstream(gate: GateRow) -> list[Text]:
    if not gate.upstream:
        return []
    rows = [
        (f"    {step.step}", step.status, duration(step.duration_s), size(step.output_bytes), step.agent)
        for step in gate.upstream[:_MOST]
    ]
    more = len(gate.upstream) - _MOST
    lines = columns(("", "", "", "", ""), rows, right=frozenset({2, 3}))[1:]
    return [
        Text("  It follows", style="bold"),
        *lines,
        *([Text(f"    … and {counted(more, 'more step')}", style="dim")] if more > 0 else []),
        Text(),
    ]


def _releases(gate: GateRow, width: int) -> list[Text]:
    direct = f"{counted(gate.behind, 'step')} behind it" if gate.behind else "nothing"
    lines = [Text("  An approval lets go ", style="bold").append(direct, "not bold")]
    for release in gate.releases[:_MOST]:
        who = f" by {release.agent}" if release.agent else f" ({release.kind})"
        lines.append(Text("    ").append(release.step, "bold").append(who, "not bold"))
        lines += _inputs(release, gate.shown, width)
        if release.destructive:
            lines.append(Text("      This cannot be undone.", style="red"))
        if release.agent:
            lines += paragraph(f"may {allowed(release.permissions)}", width, "      ", "dim")
    if len(gate.releases) > _MOST:
        lines.append(Text(f"    … and {counted(len(gate.releases) - _MOST, 'more step')}", style="dim"))
    if gate.releases and (later := gate.behind - len(gate.releases)) > 0:
        that = "that" if len(gate.releases) == 1 else "those"
        lines.append(Text(f"    and then {counted(later, 'step')} behind {that}", style="dim"))
    return lines


def _inputs(release: Release, shown: tuple[Payload, ...], width: int) -> list[Text]:
    lines = []
    for name, what in release.inputs.items():
        if isinstance(what, dict) and isinstance(what.get("$blob"), str):
            named = one_line(what["$blob"], 64)
            above = any(one.blob is not None and one.blob.sha256 == named for one in shown)
            bytes_ = what.get("size_bytes")
            much = size(bytes_) if isinstance(bytes_, int) and not isinstance(bytes_, bool) else "large"
            said = f"(shown above; sha256 {named})" if above else f"({much}; sha256 {named})"
        elif isinstance(what, str) and any(one.value == what for one in shown):
            said = f"(shown above, {size(len(canonical(what)))})"
        else:
            said = value(what, _INPUT_CHARACTERS)
            if said.endswith("…"):  # its end is lost to the eye, but not to the digest
                said += f" ({size(len(canonical(what)))}; sha256 {digest(what)})"
        if waits_for := release.later.get(name):
            said += f" (not known before {listed(waits_for)} {'has' if len(waits_for) == 1 else 'have'} run)"
        lines += paragraph(f"{one_line(name, 60)} = {said}", width, "      ")
    if (blob := release.inputs_blob) is not None:
        lines += paragraph(f"all its inputs = ({size(blob.size_bytes)}; sha256 {blob.sha256})", width, "      ")
    return lines


def allowed(permissions: Permissions) -> str:
    """What a step may do, in words."""
    named = {
        "use": permissions.tools,
        "reach": permissions.network,
        "read": permissions.read,
        "write": permissions.write,
        "know the secrets": permissions.secrets,
    }
    said = [f"{verb} {one_line(', '.join(of), 200)}" for verb, of in named.items() if of]
    return "; ".join(said) or "use nothing that has to be permitted"


def _votes(gate: GateRow, me: str) -> list[Text]:
    lines = []
    if gate.votes:
        lines.append(Text(f"  Approved so far by {listed(gate.votes)}: {len(gate.votes)} of {gate.quorum}"))
    elif gate.quorum > 1:
        lines.append(Text(f"  It takes {gate.quorum} approvals"))
    if gate.shares:
        shares = listed([f"{share.count} of {one_line(share.of, 60)}" for share in gate.shares])
        lines.append(Text(f"  Among those who approve must be {shares}; nobody counts twice"))
    for one in gate.barred:
        is_me = bool(me) and same(me, one.who)
        who = "You" if is_me else one_line(one.who, 60)
        verb = "were" if is_me else "was"
        why = f"{verb} the last to revise {one_line(one.revised, 200)}" if one.revised else "asked for this plan"
        lines.append(Text(f"  {who} {why}, so somebody else has to approve it", style="yellow" if is_me else ""))
    return lines


def given_to(ask: GateRow) -> str:
    """Which steps are given the secret that *ask* takes, and by whom they are done."""
    who = listed([f"{one.step} ({one.agent})" for one in ask.recipients], most=_MOST)
    return f"It is given to {who}" if who else "It is given to no step"


def _takes(ask: GateRow, width: int) -> list[Text]:
    takes = "a secret, which nobody is shown" if ask.secret else ""
    lines = paragraph(f"It takes {takes or expected(ask.answer, ask.options)}", width, "  ")
    if ask.secret:
        lines += paragraph(given_to(ask), width, "  ")
    if ask.default is not None:
        lines += paragraph(f"Default: {value(ask.default, _INPUT_CHARACTERS)}", width, "  ", "dim")
    if ask.invalid:
        lines.append(
            Text(f"  {counted(ask.invalid, 'answer')} did not fit; {ask.max_retries} are allowed", style="red")
        )
    return lines


def _deadline(gate: GateRow, now: datetime) -> list[Text]:
    stays = "It stays closed" if gate.kind == "gate" else "It stays open"
    if gate.overdue:
        return [Text(f"  Overdue: nobody has decided in time. {stays}.", style="red")]
    if gate.overdue_at is None:
        return []
    then = f"; {stays.lower()} all the same"
    if gate.on_overdue == "default":
        then = ": then the default is the answer"
    lines = [Text(f"  Overdue {until(gate.overdue_at, now)}{then}", style="dim")]
    for escalation in gate.escalate:
        if not set(escalation.to) <= set(gate.reviewers):
            at = gate.since + timedelta(seconds=escalation.after_s)
            said = f"{until(at, now)}, {listed(escalation.to)} may answer as well"
            lines.append(Text(f"  {said[:1].upper()}{said[1:]}", style="dim"))
    return lines


def _answers(gate: GateRow, command: str, me: str) -> list[Remedy]:
    of = f"{gate.plan} {gate.step}"
    if gate.kind == "ask":
        return [Remedy(f"{command} answer {of} {said}".rstrip(), effect) for said, effect in possible_answers(gate)]
    reason = " --reason WHY" if gate.require_reason else ""
    approve = Remedy(f"{command} gates approve {of} --digest {gate.digest[:SHORT_DIGEST]}", "let exactly this go")
    reject = Remedy(f"{command} gates reject {of}{reason}", "stop here")
    return [reject] if any(same(me, one.who) for one in gate.barred) else [approve, reject]


def gates(rows: tuple[GateRow, ...], now: datetime, width: int | None = None) -> list[Text]:
    """A list of open gates and asks."""
    lines = [
        (
            f"{gate.space}.{gate.plan}",
            Text(gate.step, "magenta"),
            gate.kind,
            ago(gate.since, now),
            Text("overdue", "red") if gate.overdue else until(gate.overdue_at, now) if gate.overdue_at else "",
            listed(gate.reviewers),
            one_line(gate.prompt or gate.label, 200),
        )
        for gate in rows
    ]
    return columns(
        ("PLAN", "STEP", "KIND", "OPENED", "OVERDUE", "FOR", "QUESTION"),
        lines,
        keep=frozenset({0, 1, 2, 3, 4}),
        width=width,
    )
