"""Asks on a page: questions that people answer, over real HTTP, with a real log behind them."""

from typing import Any

import pytest
from pages import HERE, NASTY, Site, signed_in
from plays import plan, task
from reviews import Clerk

from planmesh.schemas import commands as asks
from planmesh.schemas import subjects
from planmesh.schemas.events import AnswerInvalid, AskAnswered
from planmesh.schemas.plan import Ask, Escalation
from planmesh.schemas.subjects import SECRETS

OPTIONS = ("air", "sea", "road")


async def put(clerk: Clerk, **fields: Any) -> None:
    """Have a question asked."""
    rules = {"reviewers": ("team:finance",), "prompt": "How?", **fields}
    ask = Ask(name="ok", **rules)
    await clerk.create(HERE, plan(ask, task("ship", "ok", inputs={"how": "{ok.value}"})))


async def answered(site: Site) -> list[Any]:
    return [event.output.value["value"] for event in await site.events() if isinstance(event, AskAnswered)]


@pytest.mark.parametrize(
    ("fields", "said", "value"),
    [
        ({"options": OPTIONS}, "2", "sea"),
        ({"type": "boolean"}, "false", False),
        ({"type": "number"}, " 12.5 ", 12.5),
        ({"type": "number"}, "1200", 1200),
        ({}, "two\r\nlines", "two\nlines"),
    ],
)
async def test_an_answer_is_what_the_form_means(
    site: Site, clerk: Clerk, fields: dict[str, Any], said: str, value: object
) -> None:
    await put(clerk, **fields)

    status, text = await site.answer(site.link(), "answer", value=said, reason="as always")

    assert status == 200
    assert "Answered by Ada Lovelace" in text
    assert "as always" in text
    assert 'name="form"' not in text
    (event,) = (event for event in await site.events() if isinstance(event, AskAnswered))
    assert (event.output.value["value"], type(event.output.value["value"])) == (value, type(value))
    assert (event.by, event.level, event.groups) == ("ada", "link", ("team:finance",))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"options": OPTIONS, "default": "sea"}, 'value="2" checked'),
        ({"type": "boolean", "default": False}, 'value="false" checked'),
        ({"type": "number", "default": 7}, 'value="7"'),
        ({"default": "<b>as it is</b>"}, "\n<b>as it is</b></textarea>"),
    ],
)
async def test_a_default_is_filled_in(site: Site, clerk: Clerk, fields: dict[str, Any], shown: str) -> None:
    await put(clerk, **fields)

    assert shown in (await site.read(site.link()))[1]


async def test_nothing_is_chosen_where_there_is_no_default(site: Site, clerk: Clerk) -> None:
    await put(clerk, options=OPTIONS)

    text = (await site.read(site.link()))[1]

    assert text.count('type="radio"') == 3
    assert "<legend>Choose one</legend>" in text
    assert "checked" not in text


async def test_an_answer_that_does_not_fit_is_counted_and_said_beside_the_field(site: Site, clerk: Clerk) -> None:
    await put(clerk, type="number", max_retries=1, escalate=(Escalation(after_s=60.0, to=("role:cfo",)),))

    status, text = await site.answer(site.link(), "answer", value="a few", reason="roughly")
    assert status == 400
    assert '<p class="wrong" id="value-wrong">Enter a number in digits' in text
    assert 'value="a few" aria-describedby="value-wrong" aria-invalid="true"' in text
    assert "roughly</textarea>" in text
    assert "Attempt 2 of 2" in text
    _, text = await site.answer(site.link("bob"), "answer", value="1e999")

    assert "2 answers did not fit, so others were asked as well" in text
    assert "Escalated" in text
    assert sum(isinstance(event, AnswerInvalid) for event in await site.events()) == 2
    assert "Answered by cleo" in (await site.answer(site.link("cleo"), "answer", value="3"))[1]
    assert await answered(site) == [3]


@pytest.mark.parametrize("fields", [{"options": OPTIONS}, {"type": "boolean"}, {"type": "number"}, {}])
async def test_a_form_that_was_left_empty_is_no_answer_and_is_not_counted(
    site: Site, clerk: Clerk, fields: dict[str, Any]
) -> None:
    await put(clerk, **fields)

    status, text = await site.answer(site.link(), "answer", value="  " if not fields.get("options") else "")

    assert (status, 'id="value-wrong"' in text) == (400, True)
    assert not any(isinstance(event, AnswerInvalid | AskAnswered) for event in await site.events())


async def test_an_option_that_there_is_not_is_judged_where_every_answer_is(site: Site, clerk: Clerk) -> None:
    await put(clerk, options=OPTIONS)

    assert (await site.answer(site.link(), "answer", value="4"))[0] == 400
    assert (await site.answer(site.link(), "answer", value="99999999"))[0] == 400

    assert sum(isinstance(event, AnswerInvalid) for event in await site.events()) == 2


async def test_a_hostile_question_is_text(site: Site, clerk: Clerk) -> None:
    await put(clerk, prompt=NASTY * 900, label="<i>label", options=("<script>1</script>", "a & b"), default="a & b")

    raw = (await site.http.get(site.link())).text

    assert "<script" not in raw
    assert "<i>label" not in raw
    assert not set("\u202e\x1b") & set(raw)
    await site.answer(site.link(), "answer", value="1")
    assert await answered(site) == ["<script>1</script>"]
    assert "<script" not in (await site.http.get(site.link())).text


async def test_the_first_answer_counts(site: Site, clerk: Clerk) -> None:
    await put(clerk, options=OPTIONS)
    late = await site.form(site.link("bob"))
    await site.answer(site.link(), "answer", value="1")

    answer = await site.post(site.link("bob"), form=late, value="2")

    assert answer.status_code == 409
    assert "Somebody was faster" in answer.text
    assert await answered(site) == ["air"]


async def test_a_question_may_want_people_who_have_signed_in(site: Site, clerk: Clerk) -> None:
    await put(clerk, level="login")
    _, text = await site.read(site.link())
    assert "Sign in to answer." in text
    assert 'name="form"' not in text

    form = await site.form(site.path(), **signed_in("ada"))
    assert (await site.post(site.path(), form=form, headers=signed_in("ada"), value="yes")).status_code == 303

    assert await answered(site) == ["yes"]


async def test_a_default_that_was_taken_says_so(site: Site, clerk: Clerk) -> None:
    await put(clerk, default="sea", on_overdue="default")
    assert "When it is overdue, the default is the answer: sea" in (await site.read(site.link()))[1]
    await clerk.overdue(HERE, "ok")

    text = (await site.read(site.link()))[1]

    assert "The default was taken" in text
    assert "nobody has answered in time" in text


async def test_a_question_of_a_cancelled_plan_is_not_asked_any_more(site: Site, clerk: Clerk) -> None:
    await put(clerk)
    form = await site.form(site.link())
    await clerk.ask(HERE, asks.CancelPlan(id="c"), "oper")

    answer = await site.post(site.link(), form=form, value="sea")

    assert answer.status_code == 409
    assert "Nobody answered this question." in answer.text


# --- secrets -----------------------------------------------------------------------------------------------

KEY = "hunter2-hunter2"


async def kept_secrets(clerk: Clerk) -> dict[str, bytes]:
    """What the answers have named, as it is stored."""
    found = {}
    async for line in clerk.log.lines(HERE):
        for event in line.commit.events:
            if isinstance(event, AskAnswered):
                subject = subjects.secret(HERE, event.step, *event.secret.split("."))
                stored = await clerk.core.last_on_subject(SECRETS, subject, leader=True)
                assert stored is not None
                found[event.secret.rpartition(".")[0]] = stored.data
    return found


async def test_a_secret_is_taken_from_whoever_has_signed_in(site: Site, clerk: Clerk) -> None:
    await put(clerk, secret=True)

    _, by_link = await site.read(site.link())
    _, by_login = await site.read(site.path(), **signed_in("ada"))

    assert "Sign in to answer" in by_link
    assert 'type="password"' not in by_link
    assert 'type="password"' in by_login


async def test_a_secret_is_entered_unseen_and_never_shown_again(site: Site, clerk: Clerk) -> None:
    await put(clerk, secret=True, level="link")
    text = (await site.read(site.link()))[1]
    assert '<input id="value" name="secret" type="password" autocomplete="off"' in text
    assert "--file FILE" in text
    assert "ship (by agent" in text

    status, text = await site.answer(site.link(), "answer", secret=KEY, reason="as always")

    assert status == 200
    assert "Answered by Ada Lovelace" in text
    assert "kept as a secret" in text
    assert "review.ada" not in text
    assert KEY not in text
    assert await kept_secrets(clerk) == {"review.ada": KEY.encode()}


@pytest.mark.parametrize("said", ["", "  ", "x" * 16_385])
async def test_what_is_no_secret_is_not_sent_and_not_repeated(site: Site, clerk: Clerk, said: str) -> None:
    await put(clerk, secret=True, level="link")

    status, text = await site.answer(site.link(), "answer", secret=said, reason="because")

    assert (status, 'class="wrong"' in text, "because</textarea>" in text) == (400, True, True)
    assert "x" * 20 not in text  # a token of the page may have two in a row
    assert not any(isinstance(event, AnswerInvalid | AskAnswered) for event in await site.events())


async def test_a_secret_that_is_written_into_another_field_is_not_taken(site: Site, clerk: Clerk) -> None:
    await put(clerk, secret=True, level="link")

    status, text = await site.answer(site.link(), "answer", value=KEY)

    assert (status, "Enter the secret." in text, KEY in text) == (400, True, False)
    assert await answered(site) == []


async def test_what_was_entered_as_a_secret_is_not_sent_to_a_question_that_has_become_another(
    site: Site, clerk: Clerk
) -> None:
    await put(clerk)  # it takes a text now; the form that is sent was for a secret

    status, text = await site.answer(site.link(), "answer", secret=KEY)

    assert (status, KEY in text) == (400, False)
    assert await answered(site) == []


async def test_of_two_secrets_the_first_counts(site: Site, clerk: Clerk) -> None:
    await put(clerk, secret=True, level="link")
    late = await site.form(site.link("bob"))
    await site.answer(site.link(), "answer", secret=KEY)

    answer = await site.post(site.link("bob"), form=late, secret="another-one")

    assert answer.status_code == 409
    assert "another-one" not in answer.text
    assert await kept_secrets(clerk) == {"review.ada": KEY.encode()}


async def test_nothing_is_stored_of_whoever_cannot_answer(site: Site, clerk: Clerk) -> None:
    """Or one form, sent again and again, would fill the room that there is for everybody's secrets."""
    await put(clerk, secret=True, level="link")
    forms = [await site.form(site.link("bob")), await site.form(site.link())]
    await site.answer(site.link(), "answer", secret=KEY)

    for person, form in zip(("bob", "ada"), forms, strict=True):
        answer = await site.post(site.link(person), form=form, secret="another-one")
        assert (answer.status_code, "another-one" in answer.text) == (409, False)

    for person, kept in (("bob", None), ("ada", KEY.encode())):
        last = await clerk.core.last_on_subject(SECRETS, f"secrets.*.*.*.review.{person}.*", leader=True)
        assert (None if last is None else last.data) == kept
