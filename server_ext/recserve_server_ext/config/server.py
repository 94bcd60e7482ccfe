"""Settings of a server: one frozen object, read from TOML, checked once, and handed to the models as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from recserve_client.contract.filters import FilterBounds
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.units import MIB
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules, read_rules
from recserve_server_ext.config.interactions import InteractionLimits, Positive, Seconds
from recserve_server_ext.config.milvus import MilvusSettings

Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]

#: What runs the model `encoder`: onnxruntime in a Python model, or one of Triton's own backends.
Target = Literal["embedded", "onnxruntime", "tensorrt"]
#: Execution provider of onnxruntime.
Provider = Literal["cpu", "cuda", "tensorrt"]


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS of gRPC, by PEM files; without a certificate gRPC is plain text.

    Attributes:
        cert: Certificate of the server, with those between it and its authority.
        key: Its private key, without a password.
        client_ca: Certificates of authorities: then every client needs a certificate of one of them.
        connection_age_s: Age at which connections are closed, between calls: clients connect anew, and see a renewed
            certificate.
    """

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    connection_age_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0


class TraceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of recommendations; the extra `traces`.

    Attributes:
        endpoint: URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; empty for none.
        share: Share of the requests without a `traceparent` that are traced. One that has it is traced as its caller
            says.
    """

    endpoint: Annotated[str, Meta(pattern="^(https?://.+)?$")] = ""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """API keys, which `recserve keys create` makes.

    Attributes:
        required: Whether every request needs a key with the scope of what it asks for.
        file: File of the keys; empty for `api-keys.json` in the home. It is read again when it changes.
    """

    required: bool = False
    file: str = ""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest accepted request (a larger one is refused as `too_large`), and how much may wait.

    Attributes:
        request_bytes: Size of a packed request.
        history: Behaviours of a history.
        exclude: Excluded ids of a request.
        text_bytes: Size of a text of a history or of a request to `embed`, in UTF-8.
        texts: Texts of a history or of a request to `embed`.
        items_bytes: Size of a packed request to `items`.
        item_bytes: Size of an item of such a request.
        attributes: Attributes of an item.
        cursors: Rankings kept for later pages, of at most 1,000 items each (least recently used go first).
        filter: Bounds of a filter.
        interactions_bytes: Size of a packed request to `interactions`.
        interaction_bytes: Size of an interaction of such a request.
        revision_wait_ms: How long a request waits for its `min_revision`; 0 for not at all.
        revision_waiting: Requests that may wait for a revision at a time.
        replay_s: How far `now` of a request may lie in the past, for replays of a log; 0 refuses any. Each moment
            counts the log anew while other requests wait, so it is for tests and evaluations.
    """

    request_bytes: Positive = 4 * MIB
    history: Positive = 1000
    exclude: Annotated[int, Meta(ge=0)] = 1000
    text_bytes: Positive = 32 * 1024
    texts: Positive = 256
    items_bytes: Positive = 48 * MIB
    item_bytes: Positive = 256 * 1024
    attributes: Positive = 256
    cursors: Positive = 1000
    filter: FilterBounds = FilterBounds()
    interactions_bytes: Positive = 16 * MIB
    interaction_bytes: Positive = 256 * 1024
    revision_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 2000
    revision_waiting: Positive = 256
    replay_s: Annotated[float, Meta(ge=0, le=1e11)] = 0.0


class ImpressionLogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the impression log.

    Attributes:
        by_user: Share of the answers to requests by user id that is logged.
        plain: Share of the other answers that is logged; these name no user and include the supervisor's probes.
        every_s: Time between two writes of the queue.
        queue: Answers that may wait; an answer without room is counted but not logged.
        queue_items: Items of the answers that may wait.
    """

    by_user: Share = 1.0
    plain: Share = 0.0
    every_s: Seconds = 0.5
    queue: Positive = 20_000
    queue_items: Positive = 500_000


class UserSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of users: how they are recorded and recommended for by id.

    Attributes:
        store: URL of the interaction store; empty for the SQLite file in the home, made when it is missing.
        rules: File of the rules that weigh interactions; empty for the built-in rules.
        erasures: Ledger of the erasures, by which a restored backup is erased again; empty for `erasures.jsonl` in the
            home. Best on another disk than the home.
        limits: Limits of the interaction store.
        counts: Counts over the log.
        log: The impression log.
    """

    store: str = ""
    rules: str = ""
    erasures: str = ""
    limits: InteractionLimits = InteractionLimits()
    counts: CountSettings = CountSettings()
    log: ImpressionLogSettings = ImpressionLogSettings()


class EncoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What runs the encoder; `recserve export encoder --target` writes a target.

    Attributes:
        target: `embedded` runs with any Triton; the others need the backend of their name.
        provider: Execution provider of target onnxruntime.
        backends: Folder with more backends for the Triton of the wheel, such as `onnxruntime`; may be empty.
    """

    target: Target = "embedded"
    provider: Provider = "cpu"
    backends: str = ""


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a server.

    Attributes:
        host: Address to listen on; Triton's own front end is not meant for open networks.
        grpc_port: Port of gRPC; 0 for any free port.
        grpc_socket: Path of a Unix socket, without the `:` and the port that are added, where gRPC listens in place of
            `host`: only who may open the folder reaches it.
        metrics_host: Address of the metrics, which have neither TLS nor keys; empty for `host`.
        metrics_port: Port of Prometheus metrics; 0 for any free port.
        tls: TLS of gRPC; the metrics are plain text.
        traces: Traces of requests.
        auth: API keys.
        precision: Precision that the encoder of the published index must have; `auto` for any.
        encoder: What runs the encoder.
        threads: Threads of the search, and as many of the encoder; 0 for the usable cores.
        batch: Most requests (users) of a batch.
        encoder_batch: Most texts of a request to the encoder.
        encoding: Calls of a model to the encoder at a time; requests that wait meanwhile share the next call.
        text_cache: Vectors of texts that are kept (least recently used go first).
        encoder_timeout_s: Deadline of a call to the encoder.
        store: URL of the catalogue store; empty for the SQLite file in the home.
        compact_after: Changed and removed items after which a new snapshot is made in the background; 0 for never.
        train_every: Seconds after a training until all is trained again in the background; 0 for never.
        trainings: Settings of these trainings, by name; see the command `recserve train`.
        limits: The largest request, and how much may wait.
        users: Users, and recommendations by user id.
        young_share: Share of the places of a slate that items younger than the last training get, where there are some;
            their `rules` say `young`.
        strategy: Strategy of requests that name none.
        fallback: Strategy for users of whom nothing usable is known.
        strategies: Options by the name of a strategy, with two more entries. `kind` makes a strategy of a new name from
            the strategy it names. `bounds` limits what a request may ask for, by option: the least and the greatest
            number, or a list of values.
        milvus: Milvus, for an index that it searches.
    """

    host: str = "127.0.0.1"
    grpc_port: Port = 8001
    grpc_socket: str = ""
    metrics_host: str = ""
    metrics_port: Port = 8002
    tls: TlsSettings = TlsSettings()
    traces: TraceSettings = TraceSettings()
    auth: AuthSettings = AuthSettings()
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
    train_every: Annotated[float, Meta(ge=0)] = 0.0
    trainings: dict[str, dict[str, Any]] = {}
    limits: Limits = Limits()
    users: UserSettings = UserSettings()
    young_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    strategy: str = "auto"
    fallback: str = "popular"
    strategies: dict[str, dict[str, Any]] = {}
    milvus: MilvusSettings = MilvusSettings()


#: File in the version folder of a Python model with its settings.
MODEL_SETTINGS: Final = "settings.json"


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that the launcher hands to the models, as JSON in the parameter `settings` of their configurations.

    Attributes:
        run: Folder that the server runs from; see `recserve_server_ext.encoder.loaded`.
        snapshots: Folder of published snapshots.
        store: File or URL of the catalogue store; empty without one: then only new snapshots change the catalogue.
        serve: Settings of the server.
        interactions: File or URL of the interaction store.
        pseudonym_key: Key file of the pseudonyms.
        erasures: Ledger of the erasures.
        evaluation: What an evaluation of the log chose for `auto`; see `recserve_server_ext.strategies.parts.chosen`.
        experiments: The running experiments; see `recserve_server_ext.recommend.experiments.file`.
        encoder: Encoder folder, for the models of one encoder.
        spaces: Folder of trained spaces; empty without.
        api_keys: File of the API keys; empty where no key is asked for.
        own_key: Key of the calls of the server itself, new at every start; empty where no key is asked for.
    """

    run: str
    snapshots: str
    store: str
    serve: ServeSettings
    interactions: str
    pseudonym_key: str
    erasures: str
    evaluation: str = ""
    experiments: str = ""
    encoder: str = ""
    spaces: str = ""
    api_keys: str = ""
    own_key: str = ""


def read_settings(path: Path) -> ServeSettings:
    """Read a TOML file of `ServeSettings`, with defaults for missing settings; raises ConfigError for a wrong file."""
    with reading(path, ConfigError, "correct these settings"):
        return msgspec.toml.decode(path.read_bytes(), type=ServeSettings)


def rules_of(users: UserSettings) -> HistoryRules:
    """The rules of the settings, from their file or built in; raises ConfigError as `read_rules`."""
    return read_rules(Path(users.rules)) if users.rules else HistoryRules()
