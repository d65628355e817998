"""One private control plane and one zygote for all tests of this folder; each test has a namespace of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.cell import Cell
from tests.chaos.control_plane import ControlPlane
from tests.chaos.operators import Zygote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let all tests of this folder share an event loop."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane of this session."""
    with ControlPlane() as found:
        yield found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def zygote() -> AsyncIterator[Zygote]:
    """What forks the operators."""
    async with Zygote() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def cell(
    control_plane: ControlPlane, zygote: Zygote, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Cell]:
    """A namespace with an operator."""
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", "-")[:50].strip("-")
    async with Cell(control_plane.connection, zygote, tmp_path, f"{name}-{id(request) % 10000}") as found:
        yield found
