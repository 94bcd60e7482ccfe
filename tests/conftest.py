"""Shared fixtures: one tiny home, one served real Triton, and a small gRPC server without Triton."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from recserve_client import Client, ClientOptions
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from support.engines import EngineMaker, engine_maker
from support.exports import Exports
from support.imports import Importer
from support.inference_server import InferenceServer, listening
from support.milvus import MilvusProcess, NoMilvusError, milvus_server
from support.postgres import NoPostgresError, Postgres, postgres_cluster
from support.served import Served, served
from support.wire import Wire

#: What belongs to a server that ran in a home.
_OF_A_SERVER = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often a served process is killed while it records")


def pytest_configure() -> None:
    # By the clock of a machine that others use, too, no example is too slow.
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")


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
    return shutil.copytree(exports.home(), tmp_path_factory.mktemp("tiny") / "home", symlinks=True)


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


@pytest.fixture(scope="module", params=["exact", "hnsw", "scan", "milvus"])
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


# A server of its own for each module that changes its home; the module gives the settings.


@pytest.fixture(scope="module")
def home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny home to change."""
    return shutil.copytree(tiny_home, tmp_path_factory.mktemp("live") / "home", symlinks=True, ignore=_OF_A_SERVER)


@pytest.fixture(scope="module")
def settings_toml() -> str:
    """What `live` is configured with; a module names its own."""
    return ""


@pytest.fixture(scope="module")
def live(home: Path, settings_toml: str) -> Iterator[Served]:
    """A server over the home of the module."""
    settings = home / "settings.toml"
    settings.write_text(settings_toml)
    with served(home, "--config", str(settings)) as server:
        yield server


@pytest.fixture
def client(live: Served) -> Iterator[Client]:
    """A patient client of it."""
    with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


@pytest.fixture(scope="module")
def films(home: Path) -> list[str]:
    """Ids of its catalogue."""
    with CatalogueStore(Workspace(home).store) as store:
        return [row.id for row in store.page("", 300)[1]]
