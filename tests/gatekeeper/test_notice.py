"""What a notice says, and what it can never do to whoever reads it."""

import re
import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import HERE, START, Play, gate, plan, question, task

from planmesh.cli.standing import SHORT_DIGEST
from planmesh.directory import Directory
from planmesh.gatekeeper import rounds
from planmesh.gatekeeper.letters import Letters
from planmesh.gatekeeper.notice import GATE_DIGEST_CHARACTERS, SUBJECT_CHARACTERS, Notice, defuse, facts
from planmesh.gatekeeper.rounds import Kind, Reviews
from planmesh.schemas import commands as asks
from planmesh.schemas.events import GateOpened
from planmesh.schemas.payload import Payload, blob_of
from planmesh.schemas.plan import Escalation, Permissions, Plan, Share

# --- untrusted text ------------------------------------------------------------------------------------------

_NASTY = st.sampled_from(
    [
        "@everyone",
        "@here",
        "<!channel>",
        "<@U123>",
        "@\u200beveryone",
        "\uff20all",
        "https://evil.example/x",
        "ht\u202etps://",
        "www.evil.example",
        "[x](y)",
        "a@b.example",
        "\x1b[31m",
        "\x00",
        "\r\n",
        "\u2028",
        "\u2066",
        "\U000e0041",
        "\ud800",
        "…",
        " ",
    ]
)
_TEXTS = st.lists(st.one_of(st.text(st.characters(codec=None)), _NASTY)).map("".join)


@given(_TEXTS, st.integers(1, 200), st.integers(1, 5))
def test_no_text_can_do_more_than_be_read(text: str, limit: int, lines: int) -> None:
    made = defuse(text, limit, lines)

    assert len(made) <= limit
    assert made.count("\n") < lines
    assert all(char == "\n" or unicodedata.category(char)[0] != "C" for char in made)
    assert all(unicodedata.category(char) not in ("Zl", "Zp") for char in made)
    assert not set(made) & set("@<>\uff20\ufe6b")
    assert "://" not in made
    assert "](" not in made
    assert not re.search(r"[^\s.]\.[^\W\d_]{2}", made)
    made.encode()


@given(_TEXTS, st.integers(1, 5))
def test_text_that_has_been_defused_stays_as_it_is(text: str, lines: int) -> None:
    made = defuse(text, 1_000, lines)

    assert defuse(made, 1_000, lines) == made


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("pay 1.200,50 EUR, see e.g. section 3.1", "pay 1.200,50 EUR, see e.g. section 3.1"),
        ("naïve 漢字 😀", "naïve 漢字 😀"),
        ("hi @everyone", "hi (at)everyone"),
        ("<!channel> now", "\u2039!channel\u203a now"),
        ("https://evil.example/a", "https[:]//evil[.]example/a"),
        ("report.md", "report[.]md"),
        ("mail ada@example.org", "mail ada(at)example[.]org"),
        ("ab\u202ecd\u200b\x07", "abcd"),
        ("two\r\nlines\tand a tab", "two lines and a tab"),
        ("\u200b" * 10_000 + "hidden", "…"),
    ],
)
def test_what_becomes_of_text(text: str, made: str) -> None:
    assert defuse(text, 60) == made


def test_what_exceeds_the_limits_is_cut() -> None:
    assert defuse("x" * 30, 20) == "x" * 19 + "…"
    assert defuse("a\n\nb\nc", 100, 3) == "a\n\nb…"
    assert defuse("\n\na\nb\n\n", 100, 3) == "a\nb"


# --- notices -------------------------------------------------------------------------------------------------


def reviews_of(play: Play) -> Reviews:
    reviews = Reviews.nothing(HERE)
    for commit, _ in play.log:
        reviews = rounds.fold(reviews, commit)
    return reviews


def notice_of(play: Play, kind: Kind = "opened", step: str = "sign-off", **said: Any) -> Notice:
    reviews = reviews_of(play)
    return Letters().write(facts(HERE, reviews, reviews.rounds[step], kind, **said))


def publishing(**fields: Any) -> Plan:
    allowed = Permissions(network=("pypi.org",), write=("/srv/reports",))
    return plan(
        task("audit"),
        gate("sign-off", "audit", **{"prompt": "Publish the audit?", "sla_s": 2 * 3600.0, **fields}),
        task("publish", "sign-off", inputs={"report": "{audit}", "path": "/srv/reports"}, permissions=allowed),
        task("tell", "publish"),
        goal="Everybody knows what is installed.",
    )


def test_a_notice_says_what_a_reviewer_must_know() -> None:
    play = Play(publishing(show=("{audit}",)))
    play.completes("audit", output="3 licences are unknown")

    notice = notice_of(play)

    assert notice.subject == "Please decide: sign-off (A plan)"
    assert re.sub("[0-9a-f]{12,16}", "DIGEST", notice.body) == (
        'The plan "A plan" waits at the gate "sign-off" for a decision.\n'
        "Please decide by 2026-01-01 02:00 UTC, 2 h after it asked.\n"
        "\n"
        "What is asked:\n"
        "  | Publish the audit?\n"
        "What the plan is for:\n"
        "  | Everybody knows what is installed.\n"
        "Requested by space, as plan space.plan.\n"
        "\n"
        "How to answer:\n"
        "  planmesh gates show space.plan sign-off\n"
        "  planmesh gates approve space.plan sign-off --digest DIGEST\n"
        "  planmesh gates reject space.plan sign-off\n"
        "\n"
        "What the plan shows for it:\n"
        "  | 3 licences are unknown\n"
        "\n"
        "If it is approved, this starts:\n"
        "  - publish: by agent agent\n"
        "      report: 3 licences are unknown\n"
        "      path: /srv/reports\n"
        "      permitted: network pypi[.]org; write /srv/reports\n"
        "  and, behind it, 1 more step: tell (by agent agent).\n"
        "\n"
        "What ran before:\n"
        "  - audit: completed by agent agent in 500 ms, output of 24 bytes, SHA-256 DIGEST\n"
        "      | 3 licences are unknown\n"
        "\n"
        "On no: nothing behind the gate starts. Other branches of the plan go on; then it waits for an operator, who "
        "can ask again or cancel it.\n"
        "On silence: the gate stays closed, with a reminder at the deadline. Waiting never opens it.\n"
        "Who is asked: role:operator (whoever has an operator's credentials).\n"
        "One decision is enough, and the first one counts."
    )


def test_what_steps_gave_stays_here_where_it_may_not_leave() -> None:
    play = Play(publishing(show=("{audit}",), prompt="Publish {audit}?"))
    play.completes("audit", output="3 licences are unknown")

    said = notice_of(play).body
    withheld = notice_of(play, with_outputs=False).body

    assert said.count("3 licences are unknown") == 4
    assert "licences" not in withheld
    assert "What is asked:\n  | Publish {audit}?\n" in withheld
    assert re.search(r"What the plan shows for it:\n  \| \(24 bytes, SHA-256 [0-9a-f]{12}\)\n", withheld)
    assert re.search(r"- publish: by agent agent\n      inputs: 5\d bytes, SHA-256 [0-9a-f]{12}\n", withheld)
    assert re.search(r"in 500 ms, output of 24 bytes, SHA-256 [0-9a-f]{12}\n\n", withheld)


def test_only_what_the_gate_has_waited_for_is_shown_as_its_output() -> None:
    play = Play(publishing())
    play.completes("audit", output="first")
    reviews = reviews_of(play)
    other = msgspec.structs.replace(reviews, outputs=reviews.outputs.set("audit", Payload(value="another attempt's")))

    body = Letters().write(facts(HERE, other, other.rounds["sign-off"], "opened")).body

    assert "another" not in body


def test_steps_are_called_as_the_plan_calls_them_for_people() -> None:
    steps = (task("a", label="Read it"), gate("sign-off", "a"), task("b", "sign-off", label="Pay it"), task("c", "b"))
    play = Play(plan(*steps))
    play.completes("a")

    body = notice_of(play).body

    assert "  - Pay it: by agent agent\n" in body
    assert "  - Read it: completed by agent agent" in body


def test_a_notice_says_who_else_is_asked() -> None:
    known = Directory.model_validate(
        {
            "people": {"ada": {"name": "Ada Lovelace"}, "bob": {}},
            "teams": {"finance": {"members": ["ada", "bob"]}},
        }
    )
    play = Play(publishing(reviewers=("team:finance", "person:bob", "person:ada"), quorum=2))
    play.completes("audit")
    play.votes("sign-off", by="ada")

    body = notice_of(play, directory=known).body

    assert "Who is asked: team:finance (Ada Lovelace, bob); person:bob; person:ada (Ada Lovelace).\n" in body
    assert "Approved so far by Ada Lovelace." in body


def test_whoever_is_asked_as_well_learns_why_and_who_else_is() -> None:
    known = Directory.model_validate(
        {"people": {"ada": {"name": "Ada Lovelace"}}, "roles": {"cfo": {"members": ["ada"]}}}
    )
    to = (Escalation(after_s=3600, to=("role:cfo",)), Escalation(after_s=7200, to=("team:board",)))
    play = Play(publishing(reviewers=("person:bob",), escalate=to))
    play.completes("audit")
    before = notice_of(play, directory=known).body
    play.is_due("sign-off", purpose="escalate", level=1)

    notice = notice_of(play, "escalated", level=1, directory=known)

    assert "Asked as well from 2026-01-01 01:00 UTC on: role:cfo (Ada Lovelace).\n" in before
    assert notice.subject == "Others are asked as well: sign-off (A plan)"
    assert notice.body.startswith(
        'Nobody has decided yet: the plan "A plan" still waits at the gate "sign-off".\n'
        "Now asked as well: role:cfo (Ada Lovelace), because nobody has answered in time.\n"
        "It should be decided by 2026-01-01 02:00 UTC.\n"
    )
    assert "Who is asked: person:bob; role:cfo (Ada Lovelace).\n" in notice.body
    assert "Asked as well from 2026-01-01 02:00 UTC on: team:board.\n" in notice.body


def test_a_notice_says_of_each_step_that_cannot_be_undone_that_it_cannot() -> None:
    play = Play(plan(gate("g"), task("pay", "g", destructive=True), task("tell", "g")))

    said = notice_of(play, step="g").body

    assert said.count("THIS CANNOT BE UNDONE.") == 1
    assert said.index("- pay:") < said.index("THIS CANNOT BE UNDONE.") < said.index("- tell:")


def test_a_notice_says_whose_approvals_it_takes() -> None:
    play = Play(publishing(reviewers=("team:a", "team:b"), shares=(Share(of="team:a", count=2), Share(of="team:b"))))
    play.completes("audit")

    assert "It takes 3 approvals (2 of team:a, 1 of team:b); one rejection is enough." in notice_of(play).body


def test_a_secret_is_asked_for_and_never_told() -> None:
    play = Play(plan(question("key", secret=True), task("after", "key")))
    asking = notice_of(play, "opened", step="key")
    play.answers("key", "1")
    answered = notice_of(play, "decided", step="key")

    assert "What it takes: a secret. Enter it" in asking.body
    assert "  planmesh gates answer space.plan key\n" in asking.body
    assert answered.subject == "Answered by ada: key (A plan)"
    assert "The answer" not in answered.body
    assert "kept-1" not in answered.body


def test_a_question_says_what_it_takes_and_how_to_answer() -> None:
    asked = question("how", prompt="How?", options=("at once", "in parts"), default="at once", on_overdue="default")
    play = Play(plan(asked, task("pay", "how")))

    notice = notice_of(play, step="how")
    play.answers("how", "in parts")
    answered = notice_of(play, "decided", step="how")
    withheld = notice_of(play, "decided", step="how", with_outputs=False)

    assert notice.subject == "Please answer: how (A plan)"
    assert (
        "What is asked:\n  | How?\nThe answers that there are:\n  | at once\n  | in parts\n"
        "What is proposed:\n  | at once\n"
    ) in notice.body
    assert "  planmesh gates answer space.plan how ANSWER\n" in notice.body
    assert "On silence: what waits for the answer does not go on, until the default becomes the answer" in notice.body
    assert "approve" not in notice.body
    assert answered.subject == "Answered by ada: how (A plan)"
    assert "The answer:\n  | in parts\nReason:\n  | so\n\nWhat waited for the answer goes on with it." in answered.body
    assert "in parts" not in withheld.body


def test_a_link_is_the_first_thing_to_be_seen() -> None:
    play = Play(publishing())
    play.completes("audit")

    known = Directory.model_validate({"people": {"ada": {}}})
    body = notice_of(play, link="https://plans.example.org/x?link=1", person="ada", directory=known).body

    assert body.startswith("Read it, and decide: https://plans.example.org/x?link=1\nThe link is yours alone")
    assert "planmesh gates" not in body


SIGN_IN = "You sign in there: a link alone is not enough for this gate."


@pytest.mark.parametrize(
    ("rules", "person", "said"),
    [
        ({"reviewers": ("person:ada",)}, "ada", "The link is yours alone: whoever has it answers in your name."),
        ({"reviewers": ("person:ada",)}, "", "You sign in there: the link does not say who you are."),
        ({"reviewers": ("person:ada",), "quorum": 2}, "ada", SIGN_IN),
        ({}, "ada", SIGN_IN),
        ({"level": "link"}, "ada", "The link is yours alone: whoever has it answers in your name."),
        ({"level": "operator"}, "ada", "It can be read there; deciding takes an operator's credentials."),
    ],
)
def test_a_notice_says_whether_its_link_is_enough(rules: dict[str, Any], person: str, said: str) -> None:
    known = Directory.model_validate({"people": {"ada": {}}, "operators": "person:ada"})
    play = Play(publishing(**rules))
    play.completes("audit")

    body = notice_of(play, link="https://h/x", person=person, directory=known).body

    assert body.split("\n")[1] == said
    assert ("planmesh gates approve" in body) == ("credentials" in said)


def test_the_command_line_takes_the_digest_that_a_notice_gives() -> None:
    assert SHORT_DIGEST == GATE_DIGEST_CHARACTERS


def test_a_notice_says_who_may_answer_and_how() -> None:
    rules = {"reviewers": ("person:ada", "person:bob"), "quorum": 2, "four_eyes": True, "require_reason": True}
    play = Play(publishing(optional=True, **rules))
    play.completes("audit")
    play.votes("sign-off")
    play.is_due("sign-off", purpose="sla")

    body = notice_of(play, "overdue").body

    assert body.startswith('Nobody has decided in time: the plan "A plan" still waits at the gate "sign-off".')
    assert "Who is asked: person:ada; person:bob.\nIt takes 2 approvals; one rejection is enough.\n" in body
    assert "Approved so far by ada.\nspace asked for this plan, so somebody else has to approve it." in body
    assert "It should have been decided by 2026-01-01 02:00 UTC, 2 h after it asked.\n" in body
    assert '  planmesh gates reject space.plan sign-off --reason "..."' in body
    assert "an operator may skip it, with a reason" in body
    assert "reminder" not in body


@pytest.mark.parametrize("person", ["", "ada", "bob"])
def test_whoever_may_not_approve_is_told_right_behind_the_link(person: str) -> None:
    play = Play(publishing(four_eyes=True), owners=("ada",))
    play.completes("audit")

    body = notice_of(play, link="https://h/x", person=person).body

    own = "You asked for this plan, so somebody else has to approve it. You may reject it, or ask for a change."
    assert (body.split("\n")[2] == own) is (person == "ada")
    assert ("ada asked for this plan, so somebody else has to approve it." in body) is (person != "ada")


def test_a_gate_that_asks_again_says_why() -> None:
    play = Play(publishing())
    play.completes("audit")
    play.votes("sign-off", "reject")
    play.retries("sign-off")

    notice = notice_of(play)

    assert notice.subject == "Please decide again: sign-off (A plan)"
    assert (
        "It asks again: this is round 2.\nada rejected the round before:\n  | so\nada asked for another round.\n"
        "What is asked:"
    ) in notice.body


def test_a_gate_whose_releases_have_changed_says_which() -> None:
    steps = (task("a"), gate("sign-off"), task("go", "sign-off", "a", inputs={"of": "{a}"}))
    play = Play(plan(*steps))
    play.completes("a", output=1)
    play.votes("sign-off")

    assert (
        "Why it asks again:\n  | what it would release has changed since it asked\nWhat has changed:\n  - go\n"
    ) in notice_of(play).body


def test_what_only_comes_to_be_known_behind_the_gate_says_so() -> None:
    tell = task("tell", "sign-off", "publish", inputs={"link": "{publish}"})

    assert (
        "link: {publish} (not known before publish has run)"
        in notice_of(Play(plan(gate("sign-off"), task("publish", "sign-off"), tell))).body
    )


def test_a_gate_that_asks_again_after_a_revision_shows_the_revision() -> None:
    play = Play(publishing())
    play.completes("audit")
    revised = publishing(label="Sign-off")
    publish, tell = revised.steps[2:]
    changed = msgspec.structs.replace(publish, inputs={"report": "{audit}", "path": "/etc"})
    revised = msgspec.structs.replace(revised, steps=(*revised.steps[:2], changed, task("log", "sign-off"), tell))

    play.ask(asks.RevisePlan(id="revise", base=1, instruction="Publish elsewhere @here", cancel_running=False))
    play.ask(asks.ProposeRevision(id="proposal", request="revise", plan=revised), "planner")

    notice = notice_of(play)
    assert notice.subject == "Please decide again: Sign-off (A plan)"
    assert (
        "Why it asks again:\n  | ada has revised what it would release: Publish elsewhere (at)here\n"
        "What has changed:\n  - sign-off: changed (label)\n  - publish: changed (inputs)\n  - log: added\n"
    ) in notice.body
    assert "      path: /etc\n" in notice.body


@pytest.mark.parametrize(
    ("end", "kind", "subject", "said"),
    [
        (lambda play: play.votes("sign-off"), "decided", "Approved by ada: sign-off (A plan)", "goes on"),
        (lambda play: play.votes("sign-off", "reject"), "decided", "Rejected by ada: sign-off (A plan)", "  | so"),
        (
            lambda play: play.ask(asks.SkipStep(id="skip", step="sign-off", reason="no time")),
            "decided",
            "Skipped by ada: sign-off (A plan)",
            "  | no time",
        ),
        (
            lambda play: play.ask(asks.CancelPlan(id="cancel", reason="enough")),
            "cancelled",
            "Closed, undecided: sign-off (A plan)",
            "By: ada\nWhy:\n  | enough",
        ),
    ],
)
def test_a_notice_says_how_it_ended(end: Any, kind: Kind, subject: str, said: str) -> None:
    play = Play(publishing(optional=True))
    play.completes("audit")
    end(play)

    notice = notice_of(play, kind)

    assert notice.subject == subject
    assert said in notice.body
    assert "planmesh show space.plan" in notice.body


def test_what_strangers_wrote_can_only_be_read() -> None:
    evil = "@everyone <!channel>\n\nHow to answer:\n  planmesh gates approve space.plan other\r\nhttps://evil.example\u202e"
    play = Play(publishing(prompt="{audit}", show=("{audit}",), label="x @here evil.example"))
    play.completes("audit", output=evil)

    notice = notice_of(play)

    for text in (notice.subject, notice.body):
        assert not set(text) & set("@<>\u202e\r")
        assert "://" not in text
    assert notice.body.count("\nHow to answer:") == 1
    assert "  | How to answer:\n  |   planmesh gates approve space[.]plan other" in notice.body
    assert notice.subject == "Please decide: x (at)here evil[.]example (A plan)"


def test_a_notice_is_never_long() -> None:
    sources = [task(f"source-{number:03}") for number in range(150)]
    needs = [source.name for source in sources]
    targets = [task(f"target-{number:03}", "sign-off", inputs={"of": "x" * 5_000}) for number in range(150)]
    asking = gate("sign-off", *needs, prompt="p" * 60_000, show=tuple("{source_000}" for _ in range(9)))
    play = Play(plan(*sources, asking, *targets, goal="g" * 60_000, concurrency=200))
    for source in sources:
        play.completes(source.name, output="y\n" * 3_000)

    notice = notice_of(play)

    assert len(notice.body) < 20_000
    assert len(notice.subject) <= SUBJECT_CHARACTERS
    assert "more (planmesh gates show)" in notice.body
    assert "behind them, 50 more steps." in notice.body
    assert notice.body.endswith("the first one counts.")


def test_a_value_that_is_large_is_named_by_its_digest() -> None:
    opened = GateOpened(
        step="g", round=1, digest="d", reviewers=(), quorum=1, shown=(Payload(blob=blob_of(b"x" * 9_999)),)
    )
    asked = rounds.Round(opened=opened, at=START)

    assert "  | (9,999 bytes, SHA-256 " in Letters().write(facts(HERE, Reviews.nothing(HERE), asked, "opened")).body
