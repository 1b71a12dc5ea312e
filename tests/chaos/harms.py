"""What can be done to a mesh. Each harm hurts for a moment, mends what it has broken, and says what it did."""

import asyncio
import contextlib
import random
import re
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from arena import Arena, Kind, send
from wire import Frame, Link

from planmesh.errors import Busy, Unusable
from planmesh.schemas.subjects import PLANS
from planmesh.supervision import Child

HURT_S = 2.5
"""Harms begin within this time."""
TRAP_S = 3.5
"""Traps, which begin in the first second, wait so long for their moment."""

Do = Callable[[Arena, random.Random], Awaitable[str]]


class NeverCame(Exception):
    """A harm that could not be done: its moment never came, or this machine does not let it be done."""


class Harm(NamedTuple):
    """One thing that can be done.

    Attributes:
        name: The same whichever mesh it is done to.
        is_trap: It waits for its moment by itself.
    """

    name: str
    do: Do
    is_trap: bool = False


class Point(NamedTuple):
    """A moment in the work of a service: it has just sent this.

    Attributes:
        user: As whom.
        subject: A pattern.
        means: Where in its work it is.
        often: Whether it comes so often that a trap may let some pass.
    """

    user: str
    subject: str
    means: str
    often: bool = False


POINTS = (
    Point("planner", r"commands\..*\.create\.planner", "a goal is planned, and its plan not yet asked for"),
    Point("planner-edge", r"\$JS\.ACK\.GOALS-", "a plan is asked for, and its goal not acked"),
    Point("planner", r"commands\..*\.propose\.planner", "a revision is worked out"),
    Point("planner", r"\$JS\.ACK\.WORK\.planner\.", "a revision is proposed, and its request not acked"),
    Point("executor", r"plans\.", "a command or a result is decided, and not committed", often=True),
    Point("executor", r"\$JS\.ACK\.COMMANDS\.", "a commit is stored, and its command not acked", often=True),
    Point("executor-agents", r"\$JS\.ACK\.RESULTS\.", "a commit is stored, and its result not acked"),
    Point("executor", r"work\.agent\.", "a commit is stored, and its step not handed out", often=True),
    Point("executor", r"work\.timer\.", "a commit is stored, and its timer not set"),
    Point("executor", r"work\.planner\.", "a commit is stored, and the planner not asked"),
    Point("executor", r"outcomes\.", "a commit is stored, and the requester not told"),
    Point("executor", r"\$JS\.ACK\.PLANS\.dispatch\.", "a step is handed out, and its commit not acked", often=True),
    Point("executor", r"commands\..*\.due\.executor", "a timer is due, and has not asked"),
    Point("executor", r"\$JS\.ACK\.WORK\.timers\.", "a timer has asked, and is not acked"),
    Point("executor", r"\$JS\.API\.STREAM\.PURGE\.", "a step is cancelled, and not taken back"),
    Point("executor", r"blobs\.sha256\.", "a large value has arrived, and is not stored"),
    Point("agent-agent", r"claims\.", "a step is to be claimed"),
    Point("agent-agent", r"blobs\.agent\.put", "a step has had its effect, and its output is not stored"),
    Point("agent-agent", r"results\.", "a step has had its effect, and its result is not stored"),
    Point("agent-agent", r"\$JS\.ACK\.WORK\.agent-agent\.", "a result is stored, and its work not acked"),
    Point("gatekeeper", r"commands\..*\.notified\.gatekeeper", "a reviewer is told, and that is not said"),
    Point("auditor", r"\$JS\.ACK\.PLANS\.auditor\.", "rows are written, and their commits not acked", often=True),
)
_HEARTBEAT = b"+WPI"
FILLER_BYTES = 1024 * 1024


# --- processes ---------------------------------------------------------------------------------------------


async def kill(arena: Arena, draw: random.Random, *, name: str) -> str:
    """kill -9; the supervisor starts it again."""
    async with arena.held(name):
        arena.children[name].kill()
        await asyncio.sleep(draw.uniform(0.2, 1.0))
    return f"kill {name}"


async def pause(arena: Arena, draw: random.Random, *, name: str, least_s: float = 0.2) -> str:
    """SIGSTOP, and SIGCONT some time later: it wakes up in another world, and does not know."""
    async with arena.held(name):
        pause_s = draw.uniform(least_s, 3.0)
        await stopped(arena.children[name].pid, pause_s)
    return f"pause {name} {pause_s:.1f} s"


async def stopped(pid: int, pause_s: float) -> None:
    send(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(pause_s)
    finally:
        send(pid, signal.SIGCONT)


async def strike(arena: Arena, draw: random.Random, *, point: Point) -> str:
    """Kill or pause a process in the moment in which it sends something; that arrives, or does not, or does later."""
    wire, pattern = arena.wire, re.compile(point.subject)
    assert wire is not None  # there is none in a cluster, and no such harm
    deadly, arrives, pause_s = draw.random() < 0.6, draw.random() < 0.5, draw.uniform(0.5, 2.5)
    skip = draw.choice([0, 0, 1, 3]) if point.often else 0
    struck: asyncio.Future[Child | None] = asyncio.get_running_loop().create_future()

    async def trap(frame: Frame) -> bool:
        nonlocal skip
        if (
            struck.done()
            or not frame.outgoing
            or frame.user != point.user
            or pattern.match(frame.subject) is None
            or frame.data == _HEARTBEAT
        ):
            return True
        if skip:
            skip -= 1
            return True
        struck.set_result(None)
        child = await arena.child_of(frame.link)
        if child is None:
            return True
        if deadly:
            # What a process has sent arrives although it is dead; what it was about to send does not.
            child.kill()
            return arrives
        if arrives:
            frame.send()
        await stopped(child.pid, pause_s)
        return not arrives

    async with wire.meddling(trap):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(struck), TRAP_S)
        await asyncio.sleep(0 if deadly or not struck.done() else pause_s)
    if not struck.done():
        raise NeverCame(f"[{point.means}] never came")
    return f"[{point.means}: {'kill' if deadly else f'pause {pause_s:.1f} s'}, {'sent' if arrives else 'unsent'}]"


# --- messages ----------------------------------------------------------------------------------------------

_STORED = re.compile(r"(goals|commands|plans|work|results|claims|outcomes|blobs)\.|\$JS\.ACK\.")


def _is_message(frame: Frame) -> bool:
    """Whether it is for a stream, or out of one; not what the server answers."""
    return _STORED.match(frame.subject) is not None


async def echo(arena: Arena, draw: random.Random) -> str:
    """Many messages come twice, in either direction."""

    async def twice(frame: Frame) -> bool:
        if _is_message(frame) and draw.random() < 0.4:
            frame.send()
        return True

    assert arena.wire is not None
    async with arena.wire.meddling(twice):
        await asyncio.sleep(2.0)
    return "echo"


async def shuffle(arena: Arena, draw: random.Random) -> str:
    """Many messages are late, and overtaken by others."""
    loop = asyncio.get_running_loop()

    async def later(frame: Frame) -> bool:
        if not _is_message(frame) or draw.random() < 0.7:
            return True
        loop.call_later(draw.expovariate(3), frame.send)
        return False

    assert arena.wire is not None
    async with arena.wire.meddling(later):
        await asyncio.sleep(2.0)
    return "shuffle"


async def repeat(arena: Arena, draw: random.Random) -> str:
    """What was said is said again, much later: results and commands."""
    heard: list[Frame] = []

    async def listen(frame: Frame) -> bool:
        if frame.outgoing and frame.subject.startswith(("results.", "commands.")):
            heard.append(frame)
        return True

    assert arena.wire is not None
    async with arena.wire.meddling(listen):
        await asyncio.sleep(2.0)
    said = draw.sample(heard, min(len(heard), 20))
    if said:
        who = {"results": "RESULTS", "commands": "COMMANDS"}
        for frame in said:
            connection = arena.admin(who[frame.subject.partition(".")[0]])
            with contextlib.suppress(Busy):
                connection.send(frame.subject, frame.data)
    return f"repeat {len(said)} messages"


async def cut(arena: Arena, draw: random.Random, *, user: str) -> str:
    """A service hears nothing any more, and then its connection breaks: what it sent may have arrived."""
    assert arena.wire is not None

    async def unheard(frame: Frame) -> bool:
        return frame.outgoing or frame.user != user

    deaf_s = draw.uniform(0.05, 0.5)
    async with arena.wire.meddling(unheard):
        await asyncio.sleep(deaf_s)
        for link in _links(arena, user):
            link.cut()
    return f"cut {user}"


async def part(arena: Arena, draw: random.Random, *, user: str) -> str:
    """Nothing arrives for a while, and then all of it does, as when a network is gone and comes back."""
    links, away_s = _links(arena, user), draw.uniform(0.5, 2.5)
    for link in links:
        link.open.clear()
    await asyncio.sleep(away_s)
    for link in links:
        link.open.set()
    return f"part {user} {away_s:.1f} s"


def _links(arena: Arena, user: str) -> list[Link]:
    assert arena.wire is not None
    return [link for link in arena.wire.links if link.user == user]


# --- servers -----------------------------------------------------------------------------------------------


async def kill_server(arena: Arena, draw: random.Random) -> str:
    async with arena.held("server"):
        node, away_s = draw.choice(arena.nodes), draw.uniform(0.0, 1.5)
        await node.kill()
        await asyncio.sleep(away_s)
        await node.start()
    return f"kill {node.name} {away_s:.1f} s"


async def pause_server(arena: Arena, draw: random.Random) -> str:
    async with arena.held("server"):
        node, pause_s = draw.choice(arena.nodes), draw.uniform(0.2, 3.0)
        node.send(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        node.send(signal.SIGCONT)
    return f"pause {node.name} {pause_s:.1f} s"


async def fill_stream(arena: Arena, draw: random.Random, *, stream: str) -> str:
    """The stream takes nothing more."""
    async with arena.held("server"):
        config = (await arena.ask(stream, f"STREAM.INFO.{stream}"))["config"]
        await arena.ask(stream, f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 1})
        await asyncio.sleep(draw.uniform(0.5, 2.0))
        await arena.ask(stream, f"STREAM.UPDATE.{stream}", config)
    return f"fill {stream}"


async def fill_disk(arena: Arena, draw: random.Random) -> str:
    """The disk is full. A server that has met that needs a new start once there is room."""
    if arena.disk is None:
        raise NeverCame("fill the disk: it is not ours, for nobody here may mount one")
    ballast = arena.disk / "ballast"
    async with arena.held("server"):
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(draw.uniform(0.5, 2.0))
        ballast.unlink()
        await arena.nodes[0].kill()
        await arena.nodes[0].start()
    return "fill the disk"


async def fill_store(arena: Arena, draw: random.Random) -> str:
    """The server may store no more, in any stream, until somebody makes room."""
    async with arena.held("server"):
        await arena.ask(PLANS, "STREAM.CREATE.FILLER", {"name": "FILLER", "subjects": ["filler"]})
        with contextlib.suppress(Busy, Unusable):
            while True:
                await arena.admin(PLANS).publish("filler", bytes(FILLER_BYTES), timeout_s=2)
        await asyncio.sleep(draw.uniform(0.5, 2.0))
        await arena.ask(PLANS, "STREAM.DELETE.FILLER")
    return "fill the store"


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for chunk in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while file.write(b"x" * chunk) == chunk:
                    pass


# --- a cluster ---------------------------------------------------------------------------------------------


async def kill_leader(arena: Arena, draw: random.Random) -> str:
    async with arena.held("server"):
        leader = await arena.leader(PLANS)
        await leader.kill()
        await asyncio.sleep(draw.uniform(0.5, 3.0))
        await leader.start()
    return f"kill the leader {leader.name}"


async def pause_leader(arena: Arena, draw: random.Random) -> str:
    """Others lead meanwhile; when it wakes up, it believes for a moment that it still does."""
    async with arena.held("server"):
        leader, pause_s = await arena.leader(PLANS), draw.uniform(1.0, 5.0)
        leader.send(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        leader.send(signal.SIGCONT)
    return f"pause the leader {leader.name} {pause_s:.1f} s"


async def lose_quorum(arena: Arena, draw: random.Random) -> str:
    """The leader dies, then another: nothing can be stored until one is back."""
    async with arena.held("server"):
        leader = await arena.leader(PLANS)
        other = draw.choice([node for node in arena.nodes if node is not leader])
        await leader.kill()
        await asyncio.sleep(draw.uniform(0.0, 1.0))
        await other.kill()
        await asyncio.sleep(draw.uniform(1.0, 3.0))
        for node in draw.sample([leader, other], 2):
            await node.start()
            await asyncio.sleep(draw.uniform(0.0, 1.0))
    return f"lose quorum ({leader.name}, {other.name})"


async def kill_all_servers(arena: Arena, draw: random.Random) -> str:
    async with arena.held("server"):
        for node in arena.nodes:
            await node.kill()
        await asyncio.sleep(draw.uniform(0.0, 1.0))
        for node in draw.sample(arena.nodes, len(arena.nodes)):
            await node.start()
    return "kill all servers"


# --- the database ------------------------------------------------------------------------------------------


async def lock_database(arena: Arena, draw: random.Random) -> str:
    async with arena.held("database"):
        locked_s = draw.uniform(0.5, 3.0)
        await asyncio.to_thread(_locked, arena.database, locked_s)
    return f"lock the database {locked_s:.1f} s"


def _locked(path: Path, locked_s: float) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(locked_s)
        connection.execute("ROLLBACK")


async def lose_database(arena: Arena, draw: random.Random) -> str:
    """It is gone; then it is put back, or the auditor is started again and makes a new one."""
    async with arena.held("database"), arena.held("auditor"):
        there = list(_files(arena.database))
        for path in there:
            path.rename(path.with_name(f"away-{path.name}"))
        await asyncio.sleep(draw.uniform(0.2, 1.5))
        back = draw.random() < 0.5
        for path in there:
            away = path.with_name(f"away-{path.name}")
            if back:
                away.rename(path)
            else:
                away.unlink()
        if not back:
            arena.children["auditor"].kill()
            await asyncio.sleep(0.2)
            await arena.children["auditor"].wait_ready()
    return f"lose the database, and {'put it back' if back else 'start the auditor again'}"


async def restore_database(arena: Arena, draw: random.Random) -> str:
    """An old backup takes its place, under a running auditor or one that was stopped for it."""
    async with arena.held("database"), arena.held("auditor"):
        new = arena.database.with_name("restored.db")
        new.write_bytes(arena.backup.read_bytes())
        running = draw.random() < 0.5
        if running:
            new.replace(arena.database)
        else:
            child = arena.children["auditor"]
            pid = child.pid
            child.kill()
            while child.pid == pid:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            for path in _files(arena.database):
                path.unlink()
            new.replace(arena.database)
            await child.wait_ready()
        await asyncio.sleep(draw.uniform(0.0, 1.0))
    return f"restore the database under {'a running' if running else 'a stopped'} auditor"


def _files(database: Path) -> Iterator[Path]:
    """The database, and what SQLite keeps beside it."""
    for suffix in ("-wal", "-shm", ""):
        path = database.with_name(database.name + suffix)
        if path.exists():
            yield path


# --- all of them -------------------------------------------------------------------------------------------

STREAMS = ("GOALS-shop", "COMMANDS", "PLANS", "WORK", "RESULTS", "CLAIMS", "BLOBS", "OUTCOMES")
USERS = ("planner", "executor", "executor-agents", "agent-agent", "gatekeeper", "auditor")


PROMISED = (
    *(
        f"{do} {name}"
        for do in ("kill", "pause")
        for name in ("planner", "gatekeeper", "auditor", "executor", "worker")
    ),
    "pause worker beyond its lease",
    "kill a server",
    "pause a server",
    "strike: a step has had its effect, and its result is not stored",
    "strike: a command or a result is decided, and not committed",
    "strike: a commit is stored, and its step not handed out",
    "strike: a step is handed out, and its commit not acked",
    "echo",
    "shuffle",
    "repeat",
    "fill the disk",
    "fill the store",
    *(f"fill {stream}" for stream in STREAMS),
    "lock the database",
    "lose the database",
    "restore the database",
    "kill the leader",
    "pause the leader",
    "lose quorum",
)
"""What is done in any thirty rounds; more is done besides."""


def harms_for(kind: Kind, draw: random.Random) -> list[Harm]:
    """Everything that can be done to a mesh of this kind, in an order of chance. Traps are twice in it."""
    names = ["planner", "gatekeeper", "auditor"]
    names += ["executor", *(f"executor-{number}" for number in range(2, kind.executors + 1))]
    names += ["worker", *(f"worker-{number}" for number in range(2, kind.workers + 1))]
    found = [Harm(f"kill {name}", partial(kill, name=name)) for name in names]
    found += [Harm(f"pause {name}", partial(pause, name=name)) for name in names]
    found.append(Harm("pause worker beyond its lease", partial(pause, name="worker", least_s=2.5)))
    if kind.is_cluster:
        found += [Harm("kill the leader", kill_leader), Harm("lose quorum", lose_quorum)] * 2
        found += [Harm("pause the leader", pause_leader), Harm("kill all servers", kill_all_servers)]
        found.append(Harm("kill a server", kill_server))
    else:
        found += [Harm(f"strike: {point.means}", partial(strike, point=point), True) for point in POINTS] * 2
        found += [Harm("kill a server", kill_server), Harm("pause a server", pause_server)]
        found += [Harm("echo", echo), Harm("shuffle", shuffle), Harm("repeat", repeat)]
        found += [Harm(f"cut {user}", partial(cut, user=user)) for user in USERS]
        found += [Harm(f"part {user}", partial(part, user=user)) for user in USERS]
        found += [Harm(f"fill {stream}", partial(fill_stream, stream=stream)) for stream in STREAMS]
        found += [Harm("lock the database", lock_database), Harm("lose the database", lose_database)]
        found.append(Harm("restore the database", restore_database))
    if kind.small_disk:
        found += [Harm("fill the disk", fill_disk), Harm("fill the store", fill_store)] * 3
    draw.shuffle(found)
    return found


__all__ = ["HURT_S", "PROMISED", "Harm", "NeverCame", "harms_for"]
