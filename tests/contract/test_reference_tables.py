"""The tables of docs/reference that are written by hand name what the code has, and nothing else."""

from __future__ import annotations

import importlib
import re
import typing
from itertools import pairwise
from typing import Any

import pytest

from recserve_client import AsyncClient, Client, ClientOptions
from recserve_client.calls import RecommendOptions
from recserve_client.contract import MEANING_OF, STATUS_OF, ErrorKind, NewInteraction
from recserve_client.contract.filters import Filter
from recserve_client.contract.recommend import STAGES
from recserve_client.contract.slate_options import SlateOptions
from recserve_client.errors import from_status
from recserve_export.bulk_encoding.job import SCHEMA, Job
from recserve_export.outcomes.export import Impression
from recserve_export.outcomes.outcomes import Named
from recserve_export.tabular.rows import Reason
from recserve_server_ext.batching.batcher import OWN
from recserve_server_ext.catalogue import tables as catalogue_tables
from recserve_server_ext.encoder.manifest import EncoderManifest
from recserve_server_ext.encoder.selection import EncoderChoice
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.space import SpaceManifest
from recserve_server_ext.index.trained import TrainedManifest
from recserve_server_ext.interactions import tables as interaction_tables
from recserve_server_ext.interactions.interaction import Refused
from recserve_server_ext.strategies.registry import Registry
from support.markdown import DOCS, ROOT, blocks, codes, read, table

SERVER = ROOT / "server_ext" / "recserve_server_ext"


def first_codes(page: str, head: str) -> list[str]:
    """What stands in backticks in the first cells of a table."""
    return [code for row in table(read(page), head) for code in codes(row[0])]


class TestErrors:
    def test_every_kind_has_its_status_exception_and_meaning(self) -> None:
        rows = table(read("reference/errors.md"), "kind")
        expected = [
            [
                f"`{kind}`",
                STATUS_OF[kind],
                f"`{type(from_status(STATUS_OF[kind], f'{kind}: x')).__name__}`",
                MEANING_OF[kind],
            ]
            for kind in ErrorKind
        ]
        assert [row[:4] for row in rows] == expected

    def test_statuses_without_a_kind(self) -> None:
        for statuses, exceptions, _ in table(read("reference/errors.md"), "gRPC status"):
            named = statuses.split(" or ") if statuses != "all others" else ["DATA_LOSS"]
            assert [type(from_status(status, "x")).__name__ for status in named] == codes(exceptions)


class TestMetrics:
    def test_every_metric_is_there_with_its_kind_and_labels(self) -> None:
        modules = (SERVER / "triton" / "metrics").glob("*.py")
        source = "".join(module.read_text(encoding="utf-8") for module in modules)
        in_code = set(re.findall(r'"(recserve_\w+)"', source))
        rows = table(read("reference/metrics.md"), "metric")
        models = {"recommend", "embed", "items", "interactions", "encoder", OWN, *STAGES}
        assert sorted(codes(row[0])[0] for row in rows) == sorted(in_code)
        for name, kind, labels, _ in rows:
            assert kind.startswith("counter") == codes(name)[0].endswith("_total")
            for label in codes(labels):
                assert f'"{label}"' in source or f"{label}=" in source or label in models

    def test_metrics_that_other_pages_name(self) -> None:
        known = set(first_codes("reference/metrics.md", "metric"))
        named = {
            found
            for page in DOCS.rglob("*.md")
            for found in re.findall(
                r"\brecserve_(?!server_ext|client|console|export|benchmarks|<)[a-z_]+\b", page.read_text()
            )
        }
        assert named - known <= {"recserve_revision_", "recserve_catalogue_", "recserve_encoder_"}


def test_every_event_is_there() -> None:
    logged = {
        (name, tuple(re.findall(r"(\w+)=", fields)))
        for path in (SERVER / "supervisor").glob("*.py")
        for name, fields in re.findall(r'self\._log\("(\w+)"(.*)\)\n', path.read_text(encoding="utf-8"))
    }
    in_page: dict[str, set[str]] = {}
    for events, fields, _ in table(read("reference/events.md"), "event"):
        parts = fields.split(";") if ";" in fields else [fields] * len(codes(events))
        in_page |= {name: set(codes(part)) for name, part in zip(codes(events), parts, strict=True)}
    assert set(in_page) == {name for name, _ in logged}
    for name, given in logged:
        assert set(given) <= in_page[name], name
    for name, shown in in_page.items():
        assert shown == {field for of, given in logged if of == name for field in given}, name


class TestReasons:
    def test_of_a_row(self) -> None:
        assert first_codes("reference/imports.md", "reason") == [reason.value for reason in Reason]

    def test_of_an_interaction(self) -> None:
        reasons = {reason.value for reason in Refused}
        assert set(first_codes("reference/interactions.md", "reason")) == reasons | {"malformed", "too_large"}
        of_fields = {code for row in table(read("reference/interactions.md"), "field") for code in codes(row[2])}
        assert of_fields == reasons - {"erased"}

    def test_fields_of_an_interaction(self) -> None:
        fields = first_codes("reference/interactions.md", "field")
        assert sorted(fields) == sorted(NewInteraction.__struct_fields__)

    def test_of_an_outcome(self) -> None:
        named = set(Named.__struct_fields__) - {"joined"}
        assert set(first_codes("how-to/report-outcomes.md", "reason")) == named

    def test_columns_of_a_training_set(self) -> None:
        said = (
            read("how-to/report-outcomes.md").partition("It writes a row for every impression:")[2].partition(".\n")[0]
        )
        assert codes(said)[: len(Impression.__struct_fields__)] == list(Impression.__struct_fields__)


class TestFileFormats:
    @pytest.mark.parametrize(
        ("head", "manifest"),
        [
            ("`manifest.json`", SnapshotManifest),
            ("of a space", SpaceManifest),
            ("`manifest.json` of a space", TrainedManifest),
            ("`encoder.json`", EncoderManifest),
            ("`job.json`", Job),
        ],
    )
    def test_every_field_of_a_manifest_is_there(self, head: str, manifest: Any) -> None:
        assert sorted(first_codes("reference/file-formats.md", head)) == sorted(manifest.__struct_fields__)

    def test_the_choice_and_the_columns(self) -> None:
        page = read("reference/file-formats.md")
        choice = next(line for line in page.splitlines() if line.startswith("`choice.json` holds"))
        assert set(codes(choice)) == {"choice.json", *EncoderChoice.__struct_fields__}
        columns = page.partition("Parquet files with the columns")[2].partition(", and `job.json`")[0]
        assert codes(columns) == SCHEMA.names

    def test_tables_of_the_stores(self) -> None:
        for head, of in (("catalogue store", catalogue_tables), ("interaction store", interaction_tables)):
            assert sorted(first_codes("reference/file-formats.md", head)) == sorted(of.metadata.tables)

    def test_files_are_named_in_the_code(self) -> None:
        code = "".join(
            path.read_text(encoding="utf-8")
            for room in ("server_ext", "export")
            for path in (ROOT / room).rglob("*.py")
        )
        drawn = "\n".join(blocks(read("reference/file-formats.md"), "text"))
        files = set(re.findall(r"^ +([\w.-]+\.\w+|CURRENT|PREVIOUS)(?: |$)", drawn, re.MULTILINE))
        assert len(files) > 20
        for name in files:
            assert f'"{name}"' in code, name


class TestFilters:
    def test_every_operation_is_there(self) -> None:
        operations = [kind.__struct_config__.tag for kind in typing.get_args(Filter)]
        assert sorted(first_codes("reference/filters.md", "op")) == sorted(operations)

    def test_every_option_of_a_slate_is_there(self) -> None:
        named = {row[0].split(",")[0].strip("`") for row in table(read("how-to/shape-a-slate.md"), "option")}
        assert named == set(SlateOptions.__struct_fields__)


class TestClient:
    @pytest.mark.parametrize("client", [Client, AsyncClient])
    def test_methods(self, client: type) -> None:
        said = [code.partition("(")[0] for code in first_codes("reference/client.md", "method")]
        own = [name for name in vars(client) if not name.startswith("_") and name not in ("run", "close")]
        parts = {"items", "interactions", "users"}
        of_parts = [
            f"{part}.{name}" for part in parts for name in vars(_part(client, part)) if not name.startswith("_")
        ]
        assert sorted(said) == sorted([*own, *of_parts])

    def test_options(self) -> None:
        assert sorted(first_codes("reference/client.md", "option")) == sorted(typing.get_type_hints(RecommendOptions))
        fields = [name for name in ClientOptions.__dataclass_fields__ if not name.startswith("_")]
        assert first_codes("reference/client.md", "`ClientOptions`") == fields


def _part(client: type, name: str) -> type:
    prefix = "Async" if client is AsyncClient else ""
    found: type = getattr(importlib.import_module("recserve_client.client"), f"{prefix}{name.capitalize()}")
    return found


class TestGlossary:
    def rows(self) -> list[list[str]]:
        return table(read("reference/glossary.md"), "word")

    def test_names_are_in_the_code(self) -> None:
        for word, _, where in self.rows():
            (path,) = codes(where)
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), f"{word}: {path}"

    def test_each_word_once(self) -> None:
        words = [row[0] for row in self.rows()]
        assert len(words) == len(set(words))


def test_every_strategy_is_in_the_guide() -> None:
    named = set(first_codes("how-to/choose-a-strategy.md", "strategy"))
    assert named == set(Registry().names)


def test_decisions_are_numbered_and_listed() -> None:
    numbers = [int(path.name[:3]) for path in sorted((DOCS / "decisions").glob("0*.md"))]
    assert all(after - before == 1 for before, after in pairwise(numbers))
    assert [row[0] for row in table(read("decisions/index.md"), "no.")] == [f"{number:03d}" for number in numbers]
