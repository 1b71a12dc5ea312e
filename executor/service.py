"""Which message goes to which loop, and in which order they stop."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog

from planmesh.agents import Agent
from planmesh.connection import Connection
from planmesh.delivery import Keeper, Subscription, consume, subscribe
from planmesh.errors import Unusable
from planmesh.eventlog import EventLog
from planmesh.executor import blobs, secrets
from planmesh.executor.decide import Decider
from planmesh.executor.dispatch import Dispatcher
from planmesh.executor.limits import AgentLimits
from planmesh.executor.plan import DEFAULT_GATE_SLA_S
from planmesh.executor.plans import Plans
from planmesh.executor.previews import Previews, Rules
from planmesh.executor.secrets import SecretStore
from planmesh.executor.timers import handle_timer
from planmesh.executor.work import STOP_PATIENCE_S, Host, Rooms
from planmesh.readiness import notify_ready
from planmesh.schemas.payload import INLINE_INPUTS_BYTES, INLINE_OUTPUT_BYTES
from planmesh.schemas.subjects import COMMANDS, DECIDE, DISPATCH, PLANS, RESULTS, TIMERS, WORK
from planmesh.streams import PINNED_GROUP, STEERING_ACK_WAIT_S

LOOPS: Final = ("decide", "dispatch", "timers", "blobs", "work")
# Made as they are needed. How many are needed is for the agents' consumers to say: an attempt that waited for one here
# would be timed, and given up, before it begins.
_THREADS: Final = 10_000
_NAMED: Final = 20

log = structlog.get_logger()


async def steer(
    core: Connection,
    agents: Connection,
    stop: asyncio.Event,
    *,
    loops: frozenset[str] = frozenset(LOOPS),
    gate_sla_s: float = DEFAULT_GATE_SLA_S,
    escalate_to: str = "",
    inline_output_bytes: int = INLINE_OUTPUT_BYTES,
    inline_inputs_bytes: int = INLINE_INPUTS_BYTES,
) -> None:
    """Run every loop but the work loop until *stop*.

    On the way out, nothing new is taken first; what was taken is decided and handed out; then the rest ends.

    Raises:
        Unusable: A connection is gone for good.
    """
    event_log, store, plans = EventLog(core), blobs.BlobStore(core), Plans()
    decider = Decider(
        core,
        event_log,
        store,
        plans,
        gate_sla_s=gate_sla_s,
        escalate_to=escalate_to,
        limits=AgentLimits(core),
        inline_output_bytes=inline_output_bytes,
    )
    dispatcher = Dispatcher(core, agents, event_log, store, plans, inline_inputs_bytes=inline_inputs_bytes)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        subscriptions: list[Subscription] = []

        async def open_group(connection: Connection, stream: str, consumer: str) -> Subscription:
            keeper = Keeper(STEERING_ACK_WAIT_S)
            subscription = await subscribe(connection, stream, consumer, group=PINNED_GROUP, keeper=keeper)
            subscriptions.append(subscription)
            stack.callback(keeper.close)
            await stack.enter_async_context(subscription)
            return subscription

        taking: list[asyncio.Task[None]] = []
        if "decide" in loops:
            taking.append(tasks.create_task(decider.take_commands(await open_group(core, COMMANDS, DECIDE))))
            taking.append(tasks.create_task(decider.take_results(await open_group(agents, RESULTS, DECIDE))))
            previews = Previews(core, event_log, store, Rules(gate_sla_s, escalate_to))
            tasks.create_task(previews.serve(stop, PINNED_GROUP))
        if "dispatch" in loops:
            taking.append(tasks.create_task(dispatcher.take_commits(await open_group(core, PLANS, DISPATCH))))
        if "timers" in loops:
            timer = partial(handle_timer, core)
            tasks.create_task(consume(core, WORK, TIMERS, timer, service="executor", stop=stop))
        if "blobs" in loops:
            tasks.create_task(blobs.serve(store, agents, stop))
            tasks.create_task(secrets.serve(SecretStore(core, event_log, plans), agents, stop))
        log.info("executor.ready", loops=sorted(loops - {"work"}))
        notify_ready()
        await stop.wait()
        for subscription in subscriptions:
            await subscription.close()
        await asyncio.gather(*taking)
        await decider.finish()
        await dispatcher.finish()


async def work(
    agents: Mapping[str, Agent],
    connections: Mapping[str, Connection],
    stop: asyncio.Event,
    *,
    inline_output_bytes: int = INLINE_OUTPUT_BYTES,
    stop_patience_s: float = STOP_PATIENCE_S,
) -> None:
    """Run *agents* until *stop*, each over its own connection; then finish what has been begun.

    Args:
        stop_patience_s: How long, after *stop*, it goes on trying to store results that the server does not take.

    Raises:
        Unusable: A connection is gone for good; or the server has not taken all results in time, and the text says
            which.
    """
    hosts = []
    with Rooms(_THREADS) as rooms:
        async with asyncio.TaskGroup() as tasks:
            for name, agent in agents.items():
                host = Host(
                    agent,
                    connections[name],
                    rooms,
                    stop,
                    inline_output_bytes=inline_output_bytes,
                    stop_patience_s=stop_patience_s,
                )
                hosts.append(host)
                await host.describe()
                tasks.create_task(host.run())
            log.info("worker.ready", agents=sorted(agents))
            notify_ready()
    lost = [key for host in hosts for key in host.lost]
    if lost:
        log.error("results.lost", attempts=lost, patience_s=stop_patience_s)
        more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
        raise Unusable(
            f"the server has not taken how these attempts ended within {stop_patience_s:g} s (stop_patience_s): "
            f"{', '.join(lost[:_NAMED])}{more}. Each is handed out again: a step that is idempotent then runs again; "
            "another is not begun twice, and its outcome is unknown until somebody says it (planmesh resolve)"
        )
