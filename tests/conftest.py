"""Shared fixtures, the profiles of hypothesis, and which tests belong to which tier and worker.

A test with the marker of a nightly group, or in its folder below tests/nightly, is `nightly`: `make test` omits it.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

# Before anything imports gRPC: see recserve_server_ext/triton/__init__.py.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest
from hypothesis import HealthCheck, settings

from recserve_client import Client, ClientOptions
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from support.engines import EngineMaker, engine_maker
from support.exports import Exports
from support.gateway import nginx
from support.imports import Importer
from support.inference_server import InferenceServer, listening
from support.milvus import MilvusProcess, NoMilvusError, milvus_server
from support.postgres import NoPostgresError, Postgres, postgres_cluster
from support.served import Served, served
from support.site import Site, open_site
from support.tiny_home import copy_home
from support.wire import Wire

#: Each has a marker, and its tests run together once a week (.ci/run).
NIGHTLY = ("weights", "benches", "milvus", "ray", "kills", "architectures", "browser")
#: Tests of these markers start servers.
SERVERS = ("triton", "milvus", "ray", "browser")
#: Servers of all modules; they are shared where one process runs all tests that ask for one.
SHARED = ("tiny_server", "live", "site")

# By the clock of a machine that others use, too, no example is too slow. `examples` in support/examples.py
# multiplies the number of examples: `wide` is for one night of the week.
_SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", _SHARED, max_examples=50, derandomize=True, database=None)
settings.register_profile("wide", _SHARED, max_examples=500, print_blob=True)
settings.load_profile("fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often a served process is killed while it records")
    parser.addoption("--mutations", type=int, default=100_000, help="mutated requests that are sent to a server")


# Before xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        assert isinstance(item, pytest.Function)
        folder = item.path.parent.relative_to(tests)
        if folder.parts[:1] == ("nightly",):
            item.add_marker(folder.parts[1])
        markers = {marker.name for marker in item.iter_markers()}
        if not markers.isdisjoint(NIGHTLY):
            item.add_marker(pytest.mark.nightly)
        item.add_marker(pytest.mark.xdist_group(_group(item, folder, markers)))
    items.sort(key=_place)


def _group(item: pytest.Function, folder: Path, markers: set[str]) -> str:
    """Tests of one group run in one process: those that share servers, those that need torch, or those of a module."""
    if not markers.isdisjoint(SERVERS):
        shared = [name for name in SHARED if name in item.fixturenames and not hasattr(item.module, name)]
        return "servers" if shared or folder != Path("integration") else item.path.name
    return "torch" if folder == Path("unit/export/encoder") else item.path.name


def _place(item: pytest.Item) -> int:
    """The long groups come first, so that the processes end at the same time."""
    group = item.get_closest_marker("xdist_group")
    assert group is not None
    first = ("servers", "torch")
    if group.args[0] in first:
        return first.index(group.args[0])
    return len(first) + (item.get_closest_marker("triton") is None)


def pytest_collection_finish() -> None:
    """No collection of garbage looks through the modules of all tests again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _keeps_its_priority() -> Iterator[None]:
    """A test that runs a command in this process must not put all tests after it behind those of other processes."""
    before = os.nice(0)
    yield
    assert os.nice(0) == before


@pytest.fixture
def kills(pytestconfig: pytest.Config) -> int:
    """How often to kill a served process: each time takes seconds, until it serves again."""
    return int(pytestconfig.getoption("--kills"))


@pytest.fixture(scope="session")
def exports(pytestconfig: pytest.Config) -> Exports:
    """The tiny encoders, each exported once."""
    assert pytestconfig.cache is not None
    return Exports(pytestconfig.cache.mkdir("exports"))


@pytest.fixture(scope="session")
def tiny_home(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the tiny encoder, some films and their snapshot; not to be changed."""
    return copy_home(exports.home(), tmp_path_factory.mktemp("tiny") / "home")


@pytest.fixture(scope="session")
def films(tiny_home: Path) -> list[str]:
    """Ids of its catalogue."""
    with CatalogueStore(Workspace(tiny_home).store) as store:
        return [row.id for row in store.page("", 300)[1]]


@pytest.fixture(scope="session")
def source(exports: Exports) -> Path:
    """What the encoder of `tiny_home` was exported from; not to be changed."""
    return exports.source()


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    """A copy of the source to change."""
    return shutil.copytree(source, tmp_path / "copied")


@pytest.fixture(scope="session")
def tiny_server(tiny_home: Path) -> Iterator[Served]:
    """A real Triton over the tiny home, for tests that leave it as it was."""
    with served(tiny_home) as server:
        yield server


@pytest.fixture(scope="session")
def wire(tiny_server: Served) -> Wire:
    """Raw calls to the tiny server."""
    return Wire(tiny_server.grpc)


# One more server for all tests that change what is served: each with items and users of its own names.

_LIVE = """
compact_after = 50
[limits]
revision_wait_ms = 1500
revision_waiting = 8
replay_s = 1e8
[users]
counts.every_s = 0.1
log.every_s = 0.1
"""


@pytest.fixture(scope="session")
def live(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real Triton over a copy of the tiny home."""
    with served(copy_home(tiny_home, tmp_path_factory.mktemp("live") / "home"), settings=_LIVE) as server:
        yield server


@pytest.fixture(scope="session")
def site(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that asks for keys, its HTTP API, and a real nginx before both."""
    nginx()
    with open_site(copy_home(tiny_home, tmp_path_factory.mktemp("site") / "home")) as found:
        yield found


@pytest.fixture(scope="module")
def home(live: Served) -> Path:
    """What `live` serves; modules with a server of their own have another one."""
    return live.home


@pytest.fixture
def client(live: Served) -> Iterator[Client]:
    """A patient client of `live`."""
    with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


@pytest.fixture
def server() -> InferenceServer:
    """A small gRPC server of the same protocol, without Triton; tests set its answers and look at its requests."""
    return InferenceServer()


@pytest.fixture
def address(server: InferenceServer) -> Iterator[str]:
    """Where it listens."""
    with listening(server) as found:
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A private PostgreSQL cluster; a test takes what `empty` gives, and closes what it opened."""
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(postgres_cluster())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield cluster


@pytest.fixture(scope="session")
def milvus() -> Iterator[MilvusProcess]:
    """A private Milvus; a test that kills it starts it again."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(milvus_server())
        except NoMilvusError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="module", params=["exact", "hnsw", "scan", pytest.param("milvus", marks=pytest.mark.milvus)])
def make_engine(request: pytest.FixtureRequest) -> Iterator[EngineMaker]:
    """Builds one of the engines, each in turn; what they leave elsewhere is removed at the end."""
    uri = request.getfixturevalue("milvus").uri if request.param == "milvus" else ""
    with engine_maker(request.param, uri) as make:
        yield make


@pytest.fixture(params=["sqlite", "postgres"])
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a test makes its store: once in a SQLite file, once in an empty PostgreSQL database."""
    if request.param == "sqlite":
        return tmp_path / "store.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.empty()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount program")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def importer(tmp_path: Path) -> Iterator[Importer]:
    """Imports files into an empty catalogue."""
    with CatalogueStore(tmp_path / "catalogue.db", create=True) as store:
        yield Importer(store)
