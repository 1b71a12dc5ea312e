"""A gate as its reviewer reads it."""

from datetime import timedelta
from typing import Any

import msgspec
from plays import Play, gate, plan, question, task

from planmesh.cli.review import gates, review
from planmesh.cli.view import gate_row, of_state
from planmesh.schemas.payload import Blob, Payload, digest
from planmesh.schemas.plan import Permissions


def shown(play: Play, width: int = 100, **how: Any) -> list[str]:
    return [line.plain for line in review(of_state(play.state).gates[0], play.at + timedelta(minutes=1), width, **how)]


def test_it_shows_what_leads_the_review_word_for_word_and_harmless(asked: Play) -> None:
    lines = shown(asked)

    assert "  Deploy to staging?" in lines
    assert "  version [bold]7[/bold]" in lines
    assert "  \\x1b[31mred" in lines


def test_it_shows_what_ran_and_what_an_approval_lets_go(asked: Play) -> None:
    lines = [line.rstrip() for line in shown(asked)]

    assert lines[lines.index("  It follows") + 1].split("  ")[2:4] == ["build", "completed"]
    releases = lines.index("  An approval lets go 2 steps behind it")
    assert lines[releases + 1 : releases + 5] == [
        "    deploy by agent",
        "      to = staging",
        "      what = (shown above, 39 bytes)",
        "      may use nothing that has to be permitted",
    ]


def test_steps_behind_those_that_start_at_once_are_counted() -> None:
    play = Play(plan(gate("g"), task("a", "g"), task("b", "a"), task("c", "b")))
    row = gate_row(play.state, "g")
    one = msgspec.structs.replace(row, releases=row.releases[:1])

    said = [line.plain for line in review(one, play.at, 100)]

    assert "  An approval lets go 3 steps behind it" in said
    assert "    and then 2 steps behind that" in said


def test_a_step_that_cannot_be_undone_says_so() -> None:
    play = Play(plan(gate("g"), task("pay", "g", destructive=True), task("tell", "g")))

    said = [line.plain for line in review(gate_row(play.state, "g"), play.at, 100)]

    assert said.count("      This cannot be undone.") == 1
    assert said.index("    pay by agent") < said.index("      This cannot be undone.") < said.index("    tell by agent")


def test_a_question_that_is_its_label_is_asked_once() -> None:
    play = Play(plan(question("city", label="Which city?", prompt="Which city?")))

    said = "\n".join(line.plain for line in review(gate_row(play.state, "city"), play.at, 100))

    assert said.count("Which city?") == 1


def test_it_names_what_a_step_may_use() -> None:
    permissions = Permissions(network=("example.org:443",), write=("*.md",), secrets=("token",))
    play = Play(plan(gate("ok"), task("publish", "ok", permissions=permissions)))

    assert "      may reach example.org:443; write *.md; know the secrets token" in shown(play)


def test_whoever_may_not_approve_is_told_so_and_not_how_to() -> None:
    play = Play(plan(gate("ok", four_eyes=True), task("publish", "ok")), owners=("ada",))

    mine, others = shown(play, me="ada"), shown(play, me="bob")

    assert "  You asked for this plan, so somebody else has to approve it" in mine
    assert "  ada asked for this plan, so somebody else has to approve it" in others
    assert not any("gates approve" in line for line in mine)
    assert any("gates reject" in line for line in mine)
    assert any("gates approve" in line for line in others)


def test_a_long_input_says_how_long_it_is_and_what_it_is() -> None:
    text = "x" * 5_000
    play = Play(plan(gate("ok"), task("publish", "ok", inputs={"text": text})))

    lines = "".join(line.strip() + " " for line in shown(play))

    assert f"… (4.9 KiB; sha256 {digest(text)})" in lines


def test_an_input_that_comes_to_be_known_behind_the_gate_says_so() -> None:
    report = task("report", "ok", "charge", inputs={"receipt": "{charge}"})
    play = Play(plan(gate("ok"), task("charge", "ok"), report))

    assert "      receipt = {charge} (not known before charge has run)" in shown(play)


def test_what_could_not_be_fetched_is_not_passed_over() -> None:
    play = Play(plan(gate("ok", show=("{n}",))), inputs={"n": 1})
    row = of_state(play.state).gates[0]
    blob = Payload(blob=Blob(sha256="ab" * 32, size_bytes=2_048))
    row = type(row)(**{field: getattr(row, field) for field in row.__struct_fields__} | {"shown": (blob,)})

    lines = [line.plain for line in review(row, play.at, 100)]
    fetched = [line.plain for line in review(row, play.at, 100, values={"ab" * 32: "the report"})]

    assert f"  (2.0 KiB, which could not be fetched: {'ab' * 32})" in lines
    assert "  the report" in fetched


def test_it_ends_with_commands_that_quote_the_digest(asked: Play) -> None:
    opened = asked.state.steps["approve"].opened
    assert opened is not None

    lines = shown(asked, command="planmesh --user ada")

    assert f"  Digest  {opened.digest}" in lines
    assert lines[-2].startswith(f"    planmesh --user ada gates approve plan approve --digest {opened.digest[:16]}")
    assert not any("gates approve" in line for line in shown(asked, command=None))


def test_a_list_of_gates_says_whom_they_wait_for(asked: Play) -> None:
    lines = [line.plain for line in gates(of_state(asked.state).gates, asked.at)]

    assert lines[0].split() == ["PLAN", "STEP", "KIND", "OPENED", "OVERDUE", "FOR", "QUESTION"]
    assert lines[1] == "space.plan  approve  gate  1 s ago  in 4 h   role:operator  Deploy to staging?"


def test_what_is_overdue_is_so_in_the_list_and_in_the_review(asked: Play) -> None:
    asked.is_due("approve", attempt=1, purpose="sla")

    (row,) = gates(of_state(asked.state).gates, asked.at)[1:]

    assert row.plain.split("  ")[4:6] == ["overdue", "role:operator"], row.plain
    assert "  Overdue: nobody has decided in time. It stays closed." in shown(asked)


def test_a_question_is_shown_with_what_it_takes_and_commands_that_answer_it() -> None:
    play = Play(plan(question("route", prompt="Which way?", options=("left", "sharp right"), default="left", sla_s=60)))
    play.answers("route", "up")

    lines = [line.plain for line in review(gate_row(play.state, "route"), play.at, 100)]

    assert "  It takes one of left, sharp right" in lines
    assert '  Default: "left"' in lines or "  Default: left" in lines
    assert "  1 answer did not fit; 3 are allowed" in lines
    assert any(line.endswith("it stays open all the same") for line in lines)
    assert "    planmesh answer plan route left           answer so" in lines
    assert "    planmesh answer plan route 'sharp right'  answer so" in lines
    assert not any("Digest" in line or "approval" in line for line in lines)
