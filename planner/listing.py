"""What there is to say of each plan that the mesh keeps, for lists: whether it can run, and what it takes.

To check a plan takes a second for thousands of steps, and a directory may have hundreds; so a template is checked again
only when its file has changed, or who there is to do its steps.
"""

from collections.abc import Set
from typing import Final, NamedTuple

from planmesh.directory import Directory
from planmesh.planner.compile import Agents, compile_plan
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.templates import Stamp, Templates
from planmesh.schemas.goals import Problem
from planmesh.schemas.queries import TemplateRow, TemplatesAnswer

MOST: Final = 500
_GOAL_CHARACTERS: Final = 1_000


class _Seen(NamedTuple):
    stamp: Stamp
    row: TemplateRow


class Listing:
    """Lists templates, and remembers what it has found.

    Attributes:
        checked: How many it has checked so far.
    """

    def __init__(self, templates: Templates, limits: Limits = LIMITS) -> None:
        self._templates = templates
        self._limits = limits
        self._seen: dict[str, _Seen] = {}
        self._for: tuple[Agents, Directory | None, Set[str]] | None = None
        self.checked = 0

    def answer(self, agents: Agents, directory: Directory | None, services: Set[str] = frozenset()) -> TemplatesAnswer:
        """Every template in a row, in order.

        Args:
            agents: The agents of the mesh by name.
            directory: Who can be asked to decide.
            services: Those among them that are services.
        """
        others = (agents, directory, services)
        seen = self._seen if self._for == others else {}
        names = self._templates.names()
        found = {name: self._look(name, seen.get(name), agents, directory) for name in names[:MOST]}
        self._seen, self._for = found, others
        return TemplatesAnswer(templates=tuple(one.row for one in found.values()), more=len(names) - len(found))

    def _look(self, name: str, seen: _Seen | None, agents: Agents, directory: Directory | None) -> _Seen:
        # Before it is read: what is written meanwhile is seen the next time.
        stamp = self._templates.stamp(name)
        if seen is not None and seen.stamp == stamp:
            return seen
        self.checked += 1
        return _Seen(stamp, self._row(name, agents, directory))

    def _row(self, name: str, agents: Agents, directory: Directory | None) -> TemplateRow:
        found = self._templates.read(name)
        if isinstance(found, Problem):
            return TemplateRow(template=name, problems=1, problem=found.message)
        compiled = compile_plan(found.document, agents, limits=self._limits, directory=directory)
        if isinstance(compiled, list):
            return TemplateRow(template=name, problems=len(compiled), problem=compiled[0].message)
        plan = compiled.plan
        return TemplateRow(
            template=name, name=plan.name, goal=plan.goal[:_GOAL_CHARACTERS], inputs=plan.inputs, steps=len(plan.steps)
        )
