"""The `planmesh` command: one file a group of verbs.

A verb is a function, sync or async, in one of the modules that `VERBS` names; a group of verbs (``planmesh gates
list``) is a cyclopts `App` there. Modules are imported when one of their verbs is called, so they may import what
they like. A verb takes what was said before or after it in a keyword-only parameter that is not parsed::

    async def cancel(plan: str, /, *, reason: str = "", session: OfSession) -> int: ...

(`planmesh.cli.session`), and returns its exit code, or None for 0. It raises `PlanmeshError` for what a person can
do something about: `main` prints that as one line, and no traceback.

====  ==========================================================================
Exit  means
====  ==========================================================================
0     done; of a plan: completed
1     it did not work; of a plan: failed, refused, cancelled, or paused by a failure
2     the command was not understood
3     a person has to decide (with ``--no-wait``)
130   interrupted (Ctrl-C)
====  ==========================================================================
"""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from cyclopts import App

COMPLETED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
WAITING: Final = 3
INTERRUPTED: Final = 130


_MORE: Final = " (`planmesh VERB --help` says what a verb takes)"


class Verb(NamedTuple):
    """One line of ``planmesh --help``. Where it leads: a function or an `App`, as ``module:attribute``."""

    group: str
    name: str
    target: str
    summary: str


VERBS: Final = (
    Verb("Start here", "demo", "demo:demo", "See a real plan run, from start to end, in a few seconds."),
    Verb("Start here", "up", "mesh:up", "Run a mesh on this machine."),
    Verb("Plans", "run", "run:run", "Submit a plan, and watch it until it ends."),
    Verb("Plans", "submit", "run:submit", "Submit a plan, and leave it running."),
    Verb("Plans", "plan", "drafts:plan", "Let a model make a plan of a goal in words, and look at it first."),
    Verb("Plans", "templates", "templates:app", "See the plans that the mesh keeps."),
    Verb("Plans", "validate", "document:validate", "Check a plan document, without a mesh."),
    Verb("Plans", "fmt", "language:fmt", "Write a script as it should look."),
    Verb("Plans", "graph", "graph:graph", "Draw a plan, from a file or of the mesh."),
    Verb("Plans", "list", "plans:list_", "List plans, the newest first."),
    Verb("Plans", "show", "plans:show", "Show one plan: its steps, and what it waits for."),
    Verb("Plans", "steps", "plans:steps", "Show what each step of a plan was given, and gave."),
    Verb("Plans", "log", "plans:log", "Print everything that happened to a plan."),
    Verb("Plans", "watch", "run:watch", "Watch a plan until it ends."),
    Verb("Decide and steer", "gates", "gates:app", "See what waits for a person, and decide it."),
    Verb("Decide and steer", "answer", "gates:answer", "Answer a question that a plan asks."),
    Verb("Decide and steer", "start", "steer:start", "Start a plan that was submitted as a draft."),
    Verb("Decide and steer", "pause", "steer:pause", "Start nothing more of a plan or step; what runs may finish."),
    Verb("Decide and steer", "resume", "steer:resume", "Let a paused plan or step go on."),
    Verb("Decide and steer", "cancel", "steer:cancel", "End a plan, or a step and what is behind it."),
    Verb("Decide and steer", "retry", "steer:retry", "Try a failed step again, or ask a rejected gate again."),
    Verb("Decide and steer", "skip", "steer:skip", "Go on without an optional step."),
    Verb("Decide and steer", "resolve", "steer:resolve", "Say what became of a step whose outcome is unknown."),
    Verb("Decide and steer", "revise", "revise:revise", "Replace what has not started of a plan."),
    Verb("Decide and steer", "redirect", "revise:redirect", "Answer a gate with another plan from here on."),
    Verb("Decide and steer", "diff", "revise:diff", "Show what revisions of a plan have changed."),
    Verb("The mesh", "init", "mesh:init", "Prepare a NATS server of your own."),
    Verb("The mesh", "doctor", "mesh:doctor", "Find out what is wrong, and what to do."),
    Verb("The mesh", "agents", "administer:agents", "List and add agents."),
    Verb("The mesh", "credentials", "administer:credentials", "Make users, for services and for people."),
    Verb("The mesh", "reviewers", "reviewers:app", "See whom a plan may name to decide; test how they are told."),
    Verb("The mesh", "poison", "administer:poison", "See messages that could not be handled; replay or drop them."),
    Verb("The mesh", "schema", "schema:schema", "Describe every message and subject: JSON Schema and AsyncAPI."),
)


def application(arguments: Sequence[str] = ()) -> "App":
    """The command line. Modules are imported when a verb of theirs is called, or its help is asked for.

    Args:
        arguments: What will be parsed. A verb that is named in it is explained by its docstring, not by its summary.
    """
    from cyclopts import App, Group

    from planmesh.cli.session import launcher

    app = App(
        name="planmesh",
        help="Goals become plans: named graphs of steps with a log, a state machine and human gates.",
        help_format="plaintext",
        version=_version,
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        default_parameter=None,
    )
    for place, title in enumerate(dict.fromkeys(verb.group for verb in VERBS)):
        group = Group(title, sort_key=place)
        for position, verb in enumerate(VERBS):
            if verb.group == title:
                summary = None if verb.name in arguments else verb.summary
                app.command(f"planmesh.cli.{verb.target}", name=verb.name, help=summary, group=group, sort_key=position)
    launcher(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. Returns: its exit code."""
    from cyclopts import CycloptsError, UnknownCommandError, UnusedCliTokensError

    from planmesh.cli.session import NotUnderstood
    from planmesh.errors import PlanmeshError
    from planmesh.schemas.subjects import BadToken

    arguments = sys.argv[1:] if arguments is None else arguments
    app = application(arguments)
    try:
        code = app.meta(arguments)
        sys.stdout.flush()
    except UnknownCommandError as error:
        # Its own text would import every verb there is.
        names = [name for name in error.app or app if not name.startswith("-")]
        return _complain(_unknown([*(error.command_chain or ()), *(error.unused_tokens or ())], names), USAGE)
    except UnusedCliTokensError as error:
        # A verb with too many words, or a group of verbs with one that it does not have.
        return _complain(f"nothing here takes {' '.join(map(ascii, error.unused_tokens or ()))[:200]}{_MORE}", USAGE)
    except CycloptsError as error:
        return _complain(f"{' '.join(str(error).split())}{_MORE}", USAGE)
    except (NotUnderstood, BadToken) as error:
        return _complain(str(error), USAGE)
    except PlanmeshError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`planmesh log … | head`), and the interpreter must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COMPLETED
    return code if isinstance(code, int) else COMPLETED


def _complain(said: str, code: int) -> int:
    from planmesh.cli.text import defuse

    print(f"planmesh: {defuse(said)}", file=sys.stderr)
    return code


def _unknown(words: Sequence[str], names: Sequence[str]) -> str:
    *group, word = ["planmesh", *words[: 1 if words[0] not in {verb.name for verb in VERBS} else 2]]
    near = difflib.get_close_matches(word, names, n=1)
    hint = (
        f"did you mean `{' '.join([*group, near[0]])}`?" if near else f"`{' '.join(group)} --help` lists what there is"
    )
    return f"there is no verb {word[:80]!a}; {hint}"


def _version() -> str:
    from importlib.metadata import version

    return version("planmesh")
