from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from auditor_tables import Audited


@pytest.fixture
def tables_in(tmp_path: Path) -> Iterator[Callable[..., Audited]]:
    """Opens tables in a file of that name."""
    opened: list[Audited] = []

    def open_(name: str = "auditor.db") -> Audited:
        opened.append(Audited(tmp_path / name))
        return opened[-1]

    yield open_
    for one in opened:
        one.database.close()
