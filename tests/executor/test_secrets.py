"""Secrets: what an answer may name, and who is told what, on a real server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import eventually
from plays import AGENT, HERE, Play, gate, plan, question, task

from planmesh.connection import Connection
from planmesh.errors import Busy, Conflict, Poison
from planmesh.eventlog import EventLog
from planmesh.executor.plans import Plans
from planmesh.executor.secrets import SecretStore, purge
from planmesh.frontier import frontier
from planmesh.schemas import commands as asks
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnswerAsk, Reply
from planmesh.schemas.events import AnswerInvalid, AskAnswered, AskOpened, CommandRefused, Recipient, RevisionRefused
from planmesh.schemas.plan import Ask, Branch, Decide, Each, Step, Task
from planmesh.schemas.secrets import MAX_SECRET_CHARACTERS, Kept, misfit, secret_inputs
from planmesh.schemas.state import Names, open_asks
from planmesh.schemas.subjects import SECRETS, Address
from planmesh.schemas.work import Reveal, Revealed
from planmesh.secrets import store

KEY = "the key of the shop"


def secret(name: str = "key", *after: str, **fields: Any) -> Ask:
    return question(name, *after, secret=True, **fields)


def asked(**inputs: Any) -> Play:
    return Play(plan(secret(), task("use", "key", inputs=inputs or {"key": "{key.value}"})))


# --- deciding ----------------------------------------------------------------------------------------------


def test_the_answer_names_a_secret_which_nobody_else_can_have_stored() -> None:
    play = asked()

    (answered, *_) = play.answers("key", "1")

    assert isinstance(answered, AskAnswered)
    assert answered.secret == "answer.ada.kept-1"
    assert answered.output.value["value"] == {"secret": "answer.ada.kept-1"}
    assert play.status("use") == "dispatched"
    assert secret_inputs(play.state, "use") == {"key": Kept("key", "answer.ada.kept-1")}


def test_it_says_by_which_way_it_came() -> None:
    by_service, by_page = Play(plan(secret(reviewers=("service:vault", "team:a")))), asked()

    by_service.replies("key", "vault", value="2")
    opened = by_page.state.steps["key"].opened
    assert isinstance(opened, AskOpened)
    by_page.ask(
        asks.ReviewGate(
            id="r",
            step="key",
            digest=opened.digest,
            decision="answer",
            groups=("role:operator",),
            level="login",
            secret="3",
        ),
        "bob",
    )

    assert by_service.state.steps["key"].secret == "reply.vault.kept-2"
    assert by_page.state.steps["key"].secret == "review.bob.3"


@pytest.mark.parametrize("value", ["hunter2-hunter2", 7, True, ["hunter2-hunter2"], {"secret": "answer.ada.x"}])
@pytest.mark.parametrize("named", [None, "x"])
def test_a_value_that_is_sent_to_a_secret_ask_is_refused_and_not_repeated(value: Any, named: str | None) -> None:
    play = asked()
    opened = play.state.steps["key"].opened
    assert opened is not None

    happened = play.ask(AnswerAsk(id="a", step="key", digest=opened.digest, value=value, secret=named))

    (refused,) = happened
    assert isinstance(refused, CommandRefused)
    assert refused.code == "plain_secret"
    assert b"hunter2" not in encode(happened)
    assert open_asks(play.state) == ["key"]


def test_an_ask_that_takes_no_secret_takes_no_name_of_one() -> None:
    play = Play(plan(question("key"), task("use", "key")))
    opened = play.state.steps["key"].opened
    assert opened is not None

    happened = play.ask(AnswerAsk(id="a", step="key", digest=opened.digest, secret="x"))

    assert [type(one) for one in happened] == [AnswerInvalid, CommandRefused]
    assert not play.state.has_secrets


def test_an_answer_to_the_question_before_it_was_a_secret_is_stale() -> None:
    play = Play(plan(question("key"), task("use", "key")))
    before = play.state.steps["key"].opened
    assert before is not None

    play.revises(plan(secret(), task("use", "key")))

    refused = play.ask(AnswerAsk(id="a", step="key", digest=before.digest, value="hunter2-hunter2"))[-1]
    assert isinstance(refused, CommandRefused)
    assert refused.code == "stale"
    assert "hunter2" not in refused.reason


def test_whoever_is_asked_is_told_which_steps_are_given_it() -> None:
    use, other = (
        task("use", "key", inputs={"key": "{key.value}"}),
        task("other", "key", inputs={"by": "{key.provided_by}"}),
    )
    of_items = Each(name="all", after=("key",), items="[1]", steps=(task("inner", inputs={"key": "{key.value}"}),))

    opened = Play(plan(secret(), use, other, of_items)).state.steps["key"].opened

    assert isinstance(opened, AskOpened)
    assert opened.recipients == (Recipient(step="use", agent=AGENT), Recipient(step="inner", agent=AGENT))


def test_one_of_an_item_is_given_to_steps_of_the_item() -> None:
    body = (secret("pin"), task("use", "pin", inputs={"pin": "{pin.value}"}))

    opened = Play(plan(Each(name="all", items="[1, 2]", steps=body))).state.steps["pin_2"].opened

    assert isinstance(opened, AskOpened)
    assert opened.recipients == (Recipient(step="use_2", agent=AGENT),)


def test_an_answer_counts_only_for_the_steps_that_were_shown() -> None:
    play = asked()
    before = play.state.steps["key"].opened
    assert before is not None
    more = task("more", "key", inputs={"k": "{key.value}"})

    play.revises(plan(secret(), task("use", "key", inputs={"key": "{key.value}"}), more))

    now = play.state.steps["key"].opened
    assert isinstance(now, AskOpened)
    assert now.round == 2
    assert [one.step for one in now.recipients] == ["use", "more"]
    refused = play.ask(AnswerAsk(id="a", step="key", digest=before.digest, secret="x"))[-1]
    assert isinstance(refused, CommandRefused)
    assert refused.code == "stale"


OTHERS = [
    pytest.param(Task(name="use", after=("ok",), agent="another", inputs={"key": "{key.value}"}), id="another-agent"),
    pytest.param(task("use", "ok", inputs={"key": "{key.value}", "more": "{key.value}"}), id="the-same"),
    pytest.param(task("more", "ok", inputs={"k": "{key.value}"}), id="another-step"),
    pytest.param(
        Each(name="all", after=("ok",), items="[1]", steps=(task("inner", inputs={"k": "{key.value}"}),)),
        id="a-step-of-items",
    ),
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("by", ["planner", "reviewer", "operator"])
def test_only_an_operator_gives_a_secret_that_was_entered_to_others(by: str, other: Step) -> None:
    ok = gate("ok", "key", reviewers=("team:finance", "role:operator"))
    use = task("use", "ok", inputs={"key": "{key.value}"})
    play = Play(plan(secret(), ok, use))
    play.answers("key", "1")
    revised = plan(secret(), ok, other) if other.name == "use" else plan(secret(), ok, use, other)

    if by == "reviewer":
        opened = play.state.steps["ok"].opened
        assert opened is not None
        about = {"groups": ("team:finance",), "level": "link", "digest": opened.digest, "document": {}}
        play.ask(asks.ReviewGate(id="r", step="ok", decision="redirect", **about), "bob")
        play.ask(asks.ProposeRevision(id="p", request="r", plan=revised), "planner")
    else:
        play.revises(revised, by_planner=by == "planner")

    is_same = other.name == "use" and isinstance(other, Task) and other.agent == AGENT
    codes = [problem.code for refused in play.of_type(RevisionRefused) for problem in refused.problems]
    assert codes == ([] if is_same or by == "operator" else ["loosens"])
    assert (play.state.revision == 2) is not bool(codes)


@pytest.mark.parametrize("other", OTHERS)
def test_whoever_asks_for_it_sees_it_before_and_hears_the_same_as_a_planner(other: Step) -> None:
    use = task("use", "ok", inputs={"key": "{key.value}"})
    play = Play(plan(secret(), gate("ok", "key"), use))
    play.answers("key", "1")
    steps = (other,) if other.name == "use" else (use, other)
    by_planner = Play(plan(secret(), gate("ok", "key"), use))
    by_planner.answers("key", "1")
    before = play.state

    play.revises(plan(secret(), gate("ok", "key"), *steps))
    by_planner.revises(plan(secret(), gate("ok", "key"), *steps), by_planner=True)

    said = [problem.message for refused in by_planner.of_type(RevisionRefused) for problem in refused.problems]
    assert [str(one) for one in frontier(before, play.state).discloses] == said
    assert play.state.revision == 2
    assert list(frontier(play.state, play.state).discloses) == []  # it has been


def test_nothing_is_said_of_a_secret_that_nobody_has_entered() -> None:
    play = Play(plan(secret(), task("use", "key", inputs={"key": "{key.value}"})))
    before = play.state

    play.revises(plan(secret(), task("more", "key", inputs={"key": "{key.value}"})))

    seen = frontier(before, play.state)
    assert seen.discloses == ()
    assert seen.of("asks") == ("key",)  # and whoever enters it now is told


@pytest.mark.parametrize("by_planner", [True, False])
def test_no_planner_lets_everybody_read_what_was_to_be_a_secret(by_planner: bool) -> None:
    play = Play(plan(secret(), task("use", "key", inputs={"key": "{key.value}"})))

    play.revises(plan(question("key"), task("use", "key", inputs={"key": "{key.value}"})), by_planner=by_planner)

    codes = [problem.code for refused in play.of_type(RevisionRefused) for problem in refused.problems]
    assert codes == (["loosens"] if by_planner else [])
    opened = play.state.steps["key"].opened
    assert isinstance(opened, AskOpened)
    assert opened.secret is by_planner


def test_a_gate_shows_the_name_and_not_the_secret() -> None:
    play = Play(plan(secret(), gate("ok", "key"), task("use", "ok", inputs={"key": "{key.value}"})))

    play.answers("key", "1")

    (release,) = play.state.steps["ok"].opened.releases  # type: ignore[union-attr]
    assert release.inputs == {"key": {"secret": "answer.ada.kept-1"}}


def test_each_item_is_given_its_own() -> None:
    body = (secret("pin"), task("use", "pin", inputs={"pin": "{pin.value}", "key": "{key.value}"}))
    play = Play(plan(secret(), Each(name="all", after=("key",), items="[1, 2]", steps=body)))
    play.answers("key", "k")

    play.answers("pin_1", "a")
    play.answers("pin_2", "b")

    key = Kept("key", "answer.ada.kept-k")
    for number, said in ((1, "a"), (2, "b")):
        pin = Kept(f"pin_{number}", f"answer.ada.kept-{said}")
        assert secret_inputs(play.state, f"use_{number}") == {"pin": pin, "key": key}


def test_of_branches_that_bind_one_name_the_one_that_was_taken_counts() -> None:
    decide = Decide(name="d", cases=(), otherwise="a")
    steps = (
        secret("one", "d", binding="key", branch=Branch(step="d", label="a")),
        question("other", "d", binding="key", branch=Branch(step="d", label="b")),
        task("use", "one", "other", inputs={"key": "{key.value}"}),
    )
    play = Play(plan(decide, *steps))

    play.answers("one", "1")

    assert secret_inputs(play.state, "use") == {"key": Kept("one", "answer.ada.kept-1")}


def test_what_looks_like_the_name_of_a_secret_names_none() -> None:
    forged = {"secret": "answer.ada.kept-1"}
    play = Play(
        plan(
            secret(),
            task("make", "key"),
            task("use", "make", inputs={"key": "{make.value}", "as_it_is": forged, "text": "answer.ada.kept-1"}),
        )
    )
    play.answers("key", "1")

    play.completes("make", output={"value": forged})

    assert play.status("use") == "dispatched"
    assert secret_inputs(play.state, "use") == {}


PLACES = ["{key.value}", "{key}", "{other.value}", "a {key.value}", ["{key.value}"], {"a": "{key.value}"}, "{n}"]


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from(PLACES), max_size=3), st.sampled_from(["1", None]))
def test_a_step_is_told_what_its_own_inputs_say_and_nothing_else(inputs: dict[str, Any], said: str | None) -> None:
    play = Play(
        plan(secret(), question("other"), task("use", "key", "other", inputs=inputs)), inputs={"n": {"secret": "x"}}
    )
    play.answers("other", "plain")
    if said is not None:
        play.answers("key", said)

    told = secret_inputs(play.state, "use")

    expected = {name for name, value in inputs.items() if value == "{key.value}"} if said is not None else set()
    assert set(told) == expected
    assert set(told.values()) <= {Kept("key", "answer.ada.kept-1")}
    # Whatever an expression could read has the name in it, never more.
    if said is not None:
        assert Names(play.state, step="use")["key"]["value"] == {"secret": "answer.ada.kept-1"}  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "  \n", None, 7, "x" * (MAX_SECRET_CHARACTERS + 1), "\ud800"])
def test_what_is_no_secret_is_not_stored(text: Any) -> None:
    assert misfit(text)
    assert "xx" not in misfit(text)


# --- on a server -------------------------------------------------------------------------------------------


class Vault:
    """A server with a plan in its log, somebody who stores secrets, and the executor's side."""

    def __init__(self, core: Connection, operator: Connection) -> None:
        self.core = core
        self.operator = operator
        self.store = SecretStore(core, EventLog(core), Plans())
        self._written = 0

    async def tells(self, step: str, agent: str = AGENT, attempt: int = 1, at: Address = HERE) -> Revealed:
        return await self.store.reveal(agent, Reveal(space=at.space, plan=at.plan, step=step, attempt=attempt))

    async def keeps(self, step: str, text: str, at: Address = HERE) -> str:
        return await store(self.operator, at, step, "answer", "tester", text)

    async def write(self, play: Play) -> None:
        for commit, _ in play.log[self._written :]:
            await self.core.publish(subjects.plan_log(commit.address), encode(commit))
        self._written = len(play.log)

    async def answers(self, play: Play, step: str, name: str) -> None:
        opened = play.state.steps[step].opened
        assert opened is not None
        answer = AnswerAsk(id=f"answer-{step}", step=step, digest=opened.digest, secret=name)
        assert isinstance(play.ask(answer, "tester")[0], AskAnswered)
        await self.write(play)


@pytest.fixture
async def vault(opened: Callable[..., Any]) -> AsyncIterator[Vault]:
    async with opened() as house:
        yield Vault(await house.connected("executor"), await house.connected("operator-tester"))


async def test_a_secret_that_has_grown_too_old_is_gone(opened: Callable[..., Any]) -> None:
    async with opened() as house:
        await house.server.mesh.prepare(secrets_kept_s=0.2)
        vault, play = Vault(await house.connected("executor"), await house.connected("operator-tester")), asked()
        await vault.answers(play, "key", await vault.keeps("key", KEY))

        async def is_gone() -> bool:
            return await vault.tells("use") == Revealed(inputs={}, gone=("key",))

        await eventually(is_gone)


async def test_the_agent_of_an_open_attempt_is_told_what_the_plan_gives_its_step(vault: Vault) -> None:
    play = asked()
    await vault.answers(play, "key", await vault.keeps("key", KEY))

    assert await vault.tells("use") == Revealed(inputs={"key": KEY})

    play.completes("use")
    await vault.write(play)
    with pytest.raises(Poison):
        await vault.tells("use")


@pytest.mark.parametrize(
    "about",
    [
        {"agent": "another"},
        {"attempt": 2},
        {"step": "key"},
        {"step": "later"},
        {"step": "nothing"},
        {"at": Address("tester", "another")},
        {"at": Address("another", HERE.plan)},
    ],
)
async def test_nobody_else_is_told_and_all_hear_the_same(vault: Vault, about: dict[str, Any]) -> None:
    use = task("use", "key", inputs={"key": "{key.value}"})
    play = Play(plan(secret(), use, task("later", "use", inputs={"key": "{key.value}"})))
    await vault.answers(play, "key", await vault.keeps("key", KEY))

    with pytest.raises(Poison, match=r"agent \w+ has no open attempt \d of step \w+ of plan") as refused:
        await vault.tells(**{"step": "use", **about})

    assert KEY not in str(refused.value)


async def test_a_step_that_reads_no_secret_is_told_none(vault: Vault) -> None:
    play = asked(other="{key.provided_by}", forged={"secret": "answer.tester.x"})
    await vault.answers(play, "key", await vault.keeps("key", KEY))

    assert await vault.tells("use") == Revealed(inputs={})


async def test_one_that_was_stored_for_another_ask_is_not_there(vault: Vault) -> None:
    play = asked()
    for at, step in ((HERE, "other"), (Address("tester", "another"), "key")):
        name = await vault.keeps(step, KEY, at)
    await vault.answers(play, "key", name)

    assert await vault.tells("use") == Revealed(inputs={}, gone=("key",))


@pytest.mark.parametrize("data", [b"", b"  ", b"\xff\xfe", b"x" * (MAX_SECRET_CHARACTERS + 1)])
async def test_what_somebody_stores_that_is_no_secret_is_not_there(vault: Vault, data: bytes) -> None:
    play = asked()
    await vault.operator.publish(subjects.secret(HERE, "key", "answer", "tester", "raw"), data)
    await vault.answers(play, "key", "raw")

    assert await vault.tells("use") == Revealed(inputs={}, gone=("key",))


async def test_a_secret_is_written_once(vault: Vault) -> None:
    name = await vault.keeps("key", KEY)
    subject = subjects.secret(HERE, "key", "answer", "tester", name)

    for expected in (0, None):
        with pytest.raises((Conflict, Busy)):
            await vault.operator.publish(subject, b"another", expect_last_on_subject=expected)

    stored = await vault.core.last_on_subject(SECRETS, subject, leader=True)
    assert stored is not None
    assert stored.data == KEY.encode()


async def test_what_is_too_large_is_refused_by_the_server_as_well(vault: Vault) -> None:
    with pytest.raises(ValueError, match="at most"):
        await vault.keeps("key", "x" * (MAX_SECRET_CHARACTERS + 1))

    with pytest.raises((Busy, Poison)):
        await vault.operator.publish(subjects.secret(HERE, "key", "answer", "tester", "x"), bytes(100_000))


async def test_a_purge_takes_those_of_one_plan(vault: Vault) -> None:
    near = Address("tester", f"{HERE.plan}-2")
    kept_here, kept_near = await vault.keeps("key", KEY), await vault.keeps("key", KEY, near)

    await purge(vault.core, HERE)

    found = [
        await vault.core.last_on_subject(SECRETS, subjects.secret(at, "key", "answer", "tester", name), leader=True)
        for at, name in ((HERE, kept_here), (near, kept_near))
    ]
    assert [one is not None for one in found] == [False, True]


async def test_those_of_a_service_that_is_made_while_the_executor_runs_are_told_and_taken_away(
    opened: Callable[..., Any],
) -> None:
    async with opened() as house:
        vault = Vault(await house.connected("executor"), await house.connected("operator-tester"))
        await house.server.add_submitter("late")
        late = await house.connected("submitter-late")
        ask = secret(reviewers=("service:late", "team:a"))
        play = Play(plan(ask, task("use", "key", inputs={"key": "{key.value}"})))
        opened_ask = play.state.steps["key"].opened
        assert opened_ask is not None
        name = await store(late, HERE, "key", "reply", "late", KEY)
        play.ask(Reply(id="r", step="key", digest=opened_ask.digest, decision="answer", secret=name), "service:late")
        await vault.write(play)

        assert await vault.tells("use") == Revealed(inputs={"key": KEY})

        await purge(vault.core, HERE)
        assert await vault.tells("use") == Revealed(inputs={}, gone=("key",))
        assert not vault.core.violations
