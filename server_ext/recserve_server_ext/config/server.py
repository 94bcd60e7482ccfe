"""What a server runs with: one frozen object, read from TOML, checked at the edge, handed to the models as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from recserve_client.contract.filters import FilterBounds
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.history import HistoryRules, read_rules
from recserve_server_ext.config.interactions import InteractionLimits, Seconds
from recserve_server_ext.config.milvus import MilvusSettings

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]

#: What runs the model `encoder`: a Python model with onnxruntime inside, or a backend of Triton's own.
Target = Literal["embedded", "onnxruntime", "tensorrt"]
#: What onnxruntime computes with.
Provider = Literal["cpu", "cuda", "tensorrt"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest request that is accepted (anything beyond is refused as `too_large`), and what may wait.

    Attributes:
        request_bytes: Packed request.
        history: Behaviours of one history.
        exclude: Excluded ids of one request.
        text_bytes: One text, in UTF-8.
        texts: Texts of one request (a history's or an `embed` request's).
        items_bytes: Packed request to the model `items`.
        item_bytes: One item of such a request.
        attributes: Attributes of one item.
        cursors: Rankings that are kept for later pages, of at most 1,000 items each (least recently used go first).
        filter: The largest filter.
        interactions_bytes: Packed request to the model `interactions`.
        interaction_bytes: One interaction of such a request.
        revision_wait_ms: How long a request waits for its `min_revision`; 0 = not at all.
        revision_waiting: Requests that may wait so at a time.
    """

    request_bytes: Positive = 4 * 1024 * 1024
    history: Positive = 1000
    exclude: Annotated[int, Meta(ge=0)] = 1000
    text_bytes: Positive = 32 * 1024
    texts: Positive = 256
    items_bytes: Positive = 48 * 1024 * 1024
    item_bytes: Positive = 256 * 1024
    attributes: Positive = 256
    cursors: Positive = 1000
    filter: FilterBounds = FilterBounds()
    interactions_bytes: Positive = 16 * 1024 * 1024
    interaction_bytes: Positive = 256 * 1024
    revision_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 2000
    revision_waiting: Positive = 256


class AnswerLogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged of the answers of `recommend`, and through which queue.

    Attributes:
        by_user: Share of the answers to requests by user id that is logged.
        plain: Share of the other answers; they name no user, and the supervisor's probes are among them.
        every_s: How often what waits is written.
        queue: Answers that may wait; what finds no room is not logged, and counted.
        queue_items: Items of the answers that may wait.
    """

    by_user: Share = 1.0
    plain: Share = 0.0
    every_s: Seconds = 0.5
    queue: Positive = 20_000
    queue_items: Positive = 500_000


class UserSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How users are recorded and recommended for by id.

    Attributes:
        store: URL of the interaction store; empty = the SQLite file in the home, made when it is missing.
        rules: File of the rules that weigh interactions; empty = the built-in ones.
        limits: What the interaction store accepts and keeps.
        counts: What is counted of the log.
        log: What is logged of the answers.
        experiments: Variants that are compared.
    """

    store: str = ""
    rules: str = ""
    limits: InteractionLimits = InteractionLimits()
    counts: CountSettings = CountSettings()
    log: AnswerLogSettings = AnswerLogSettings()
    experiments: list[Experiment] = []


class EncoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What runs the encoder; `recserve export encoder --target` writes each target.

    Attributes:
        target: `embedded` runs with any Triton; the others need the backend of their name.
        provider: Of target onnxruntime.
        backends: Folder with more backends for the Triton of the wheel, such as `onnxruntime`; empty without any.
    """

    target: Target = "embedded"
    provider: Provider = "cpu"
    backends: str = ""


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to serve.

    Attributes:
        host: Address to listen on; Triton's own front end is not meant for open networks.
        grpc_port: Port of gRPC; 0 = any free one.
        metrics_port: Port of Prometheus metrics; 0 = any free one.
        precision: That the encoder of the published index must have; `auto` = any.
        encoder: What runs it.
        threads: Threads of the search and of the encoder, each; 0 = the usable cores.
        batch: Requests (users) answered in one batch at most.
        encoder_batch: Texts in one request to the encoder at most.
        encoding: Calls of a model to the encoder at a time; the requests that wait meanwhile go to it together.
        text_cache: Vectors of texts kept (least recently used go first).
        encoder_timeout_s: Deadline of one call to the encoder.
        store: URL of the catalogue store; empty = the SQLite file in the home.
        compact_after: Changed and removed items after which a new snapshot is made in the background; 0 = never.
        limits: The largest request, and what may wait.
        users: What users do, and recommendations by user id.
        strategy: What answers requests that name no strategy.
        fallback: What answers where nothing usable is known of a user.
        strategies: Options by the name of a strategy, and two more entries: `kind`, for a strategy of a new name, is
            the name of the one that it is made of; `bounds`, by option, is what a request may ask for: the least and
            the greatest number, or a list of values.
        milvus: Where Milvus is, for an index that is there.
    """

    host: str = "127.0.0.1"
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    precision: Literal["auto", "fp32", "int8", "int8-fast", "fp16", "bf16"] = "auto"
    encoder: EncoderSettings = EncoderSettings()
    threads: Annotated[int, Meta(ge=0)] = 0
    batch: Annotated[int, Meta(ge=1, le=1024)] = 64
    encoder_batch: Annotated[int, Meta(ge=1, le=1024)] = 256
    encoding: Positive = 1
    text_cache: Positive = 100_000
    encoder_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    store: str = ""
    compact_after: Annotated[int, Meta(ge=0)] = 2000
    limits: Limits = Limits()
    users: UserSettings = UserSettings()
    strategy: str = "text"
    fallback: str = "popular"
    strategies: dict[str, dict[str, Any]] = {}
    milvus: MilvusSettings = MilvusSettings()


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the launcher hands to the models, as JSON in the parameter `settings` of their configurations.

    Attributes:
        run: Folder that the server runs from; see `recserve_server_ext.encoder.loaded`.
        snapshots: Folder of published snapshots.
        store: File or URL of the catalogue store; empty = there is none, and nothing changes but by new snapshots.
        serve: The server's settings.
        interactions: File or URL of the interaction store.
        pseudonym_key: File of the key that user ids become pseudonyms with.
        encoder: Encoder folder, for the models that belong to one.
    """

    run: str
    snapshots: str
    store: str
    serve: ServeSettings
    interactions: str
    pseudonym_key: str
    encoder: str = ""


def read_settings(path: Path) -> ServeSettings:
    """Read a TOML file of `ServeSettings`; what it leaves out has the default.

    Raises:
        ConfigError: Unreadable, not TOML, an unknown name or a wrong value.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ServeSettings)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def rules_of(users: UserSettings) -> HistoryRules:
    """The rules that weigh interactions.

    Raises:
        ConfigError: The file cannot be read, or does not fit the schema.
    """
    return read_rules(Path(users.rules)) if users.rules else HistoryRules()
