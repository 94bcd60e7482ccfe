"""Writes docs/protocol.md from the contract: ``python docs/tools/protocol_page.py > docs/protocol.md``."""

from __future__ import annotations

import base64
import inspect
import json
import sys
import textwrap
from typing import Any, Final

import msgspec

from recserve_client.contract import (
    MEANING_OF,
    STATUS_OF,
    Behaviour,
    DeleteItems,
    EmbedRequest,
    EmbedResponse,
    EraseUser,
    ErasureReceipt,
    ErasureVerified,
    ExportUser,
    GetItems,
    InteractionsRecorded,
    ItemsChanged,
    ItemsFound,
    ListItems,
    NewInteraction,
    NewItem,
    OldItem,
    ReadHistory,
    RecommendRequest,
    RecordInteractions,
    Slate,
    UpsertItems,
    UserExport,
    UserHistory,
    VerifyErasure,
    models,
    pack,
)

_MESSAGES: Final = (
    RecommendRequest,
    Slate,
    EmbedRequest,
    EmbedResponse,
    UpsertItems,
    NewItem,
    DeleteItems,
    OldItem,
    ItemsChanged,
    GetItems,
    ListItems,
    ItemsFound,
    RecordInteractions,
    NewInteraction,
    InteractionsRecorded,
    ReadHistory,
    UserHistory,
    ExportUser,
    UserExport,
    EraseUser,
    ErasureReceipt,
    VerifyErasure,
    ErasureVerified,
)

#: Defaults of the server's limits; a test compares them with the server's own.
LIMITS: Final[dict[str, tuple[int, str]]] = {
    "request_bytes": (4 * 1024 * 1024, "bytes of a packed request"),
    "history": (1000, "behaviours of one history"),
    "exclude": (1000, "excluded ids of one request"),
    "text_bytes": (32 * 1024, "bytes of one text, in UTF-8"),
    "texts": (256, "texts of one request"),
    "items_bytes": (48 * 1024 * 1024, "bytes of a packed request to `items`"),
    "item_bytes": (256 * 1024, "bytes of one item in it"),
    "attributes": (256, "attributes of one item"),
    "cursors": (1000, "rankings that are kept for later pages"),
    "filter.depth": (32, "conditions within conditions of one filter"),
    "filter.nodes": (256, "conditions of one filter"),
    "filter.values": (10_000, "values of all `in` of one filter"),
    "filter.string_chars": (1024, "characters of one string of a filter"),
    "interactions_bytes": (16 * 1024 * 1024, "bytes of a packed request to `interactions`"),
    "interaction_bytes": (256 * 1024, "bytes of one interaction in it"),
    "revision_wait_ms": (2000, "milliseconds that a request waits for its `min_revision`; 0 = not at all"),
    "revision_waiting": (256, "requests that may wait so at a time; one more is `unavailable`"),
}

_EXAMPLE: Final = RecommendRequest(
    history=[Behaviour(item="tt0076759"), Behaviour(text="a voyage to a distant planet", weight=0.5)],
    k=3,
    fields=["title"],
)

_HEAD: Final = """\
# Protocol

<!-- Generated: python docs/tools/protocol_page.py > docs/protocol.md -->

recserve speaks the KServe v2 inference protocol over gRPC (`inference.GRPCInferenceService/ModelInfer`). Every request
and every answer is **packed**: one `BYTES` tensor with one element, which is a JSON document in UTF-8. So any KServe
client in any language can write one by hand. The shape is always `[1, 1]`; send one request in each call, Triton makes
the batches.

| model | input | output | what it does |
|---|---|---|---|
| `recommend` | `request` | `response` | history of items, texts and vectors -> slate |
| `recommend_text` | `request` | `response` | the same for texts only, every text through the encoder (an ensemble) |
| `embed` | `request` | `response` | texts -> unit vectors |
| `items` | `request` | `response` | change and read the catalogue: upsert, delete, get, list |
| `interactions` | `request` | `response` | what users did: record, history, export, erase, verify |
| `encoder` | `input_ids`, `attention_mask` INT64 `[texts, max_tokens]` | `vector` FP32 `[texts, dim]` | token ids -> \
unit vectors; ones and then zeros in the mask |

`tokenize` and `pool` are steps of `recommend_text` and not meant for callers.

Rules that types cannot say: a behaviour has either an `item`, or a `text`, or a `vector` (a `vector` may have its
`text` beside it); texts are not blank; at least one weight is not zero; unknown option names are refused. An item's
contributions stand in the order of the history and, with its boosts, add up to its score within 1e-5. A page is asked
for with the request of the first one and the `cursor` of the page before.

A request to `items` is an [UpsertItems](#upsertitems), a [DeleteItems](#deleteitems), a [GetItems](#getitems) or a
[ListItems](#listitems), told apart by its `op`. The first two are answered with [ItemsChanged](#itemschanged), which
says what became of each item, the other two with [ItemsFound](#itemsfound).

A request to `interactions` is a [RecordInteractions](#recordinteractions), answered with
[InteractionsRecorded](#interactionsrecorded); a [ReadHistory](#readhistory), with [UserHistory](#userhistory); an
[ExportUser](#exportuser), with [UserExport](#userexport); an [EraseUser](#eraseuser), with
[ErasureReceipt](#erasurereceipt); or a [VerifyErasure](#verifyerasure), with [ErasureVerified](#erasureverified); told
apart by its `op`. A request to `recommend` has either a `history` or a `user_id`. What is wrong with one that names a
user is told without quoting what came.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_HEAD, _messages(), _errors(), _limits(), _examples()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _messages() -> str:
    schemas, components = msgspec.json.schema_components(_MESSAGES, ref_template="#{name}")
    order = [schema["$ref"].removeprefix("#") for schema in schemas]
    names = order + sorted(set(components) - set(order))
    return "## Messages\n\n" + "\n".join(_message(name, components[name]) for name in names)


def _message(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    summary, meaning_of = _described(schema.pop("description", ""))
    lines = [f"### {name}", "", summary, "", "| field | type | default | meaning |", "|---|---|---|---|"]
    for field, kind in schema["properties"].items():
        if field in required:
            default = "required"
        elif "default" in kind:
            default = f"`{json.dumps(kind['default'])}`"
        else:
            default = "may be absent"
        lines.append(f"| `{field}` | {_type(kind)} | {default} | {meaning_of.get(field, '')} |")
    full = json.dumps(schema, indent=2, ensure_ascii=False)
    folded = ["", "<details><summary>JSON schema</summary>", "", "```json", full, "```", "", "</details>", ""]
    return "\n".join([*lines, *folded])


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, and what it says of each attribute."""
    head, _, tail = inspect.cleandoc(docstring).partition("Attributes:\n")
    meaning_of: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(tail).splitlines():
        if line and not line[0].isspace():
            name, _, meaning_of[name] = line.partition(": ")
        elif name:
            meaning_of[name] += " " + line.strip()
    return head.strip(), {field: text.replace("|", "\\|").strip() for field, text in meaning_of.items()}


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].removeprefix("#")
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(_type(option) for option in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(f"`{json.dumps(value)}`" for value in kind["enum"])
    if kind.get("type") == "array":
        return f"array of {_type(kind.get('items', {}))}"
    bounds = [
        f"{sign} {kind[key]:,}"
        for key, sign in (("minimum", ">="), ("maximum", "<="), ("minLength", "length >="), ("maxLength", "length <="))
        if key in kind
    ]
    return ", ".join([str(kind.get("type", "any")), *bounds])


def _errors() -> str:
    lines = [
        "## Errors",
        "",
        "A refused request fails alone, with a gRPC status and the message `<kind>: <text>`; the text names the value.",
        "Triton itself refuses wrong tensor names, types and shapes with INVALID_ARGUMENT and a text without a kind,",
        "and puts `in ensemble 'recommend_text', ` before what a step of the ensemble answers.",
        "",
        "| kind | gRPC status | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{kind.value}` | {STATUS_OF[kind]} | {MEANING_OF[kind]} |" for kind in STATUS_OF]
    lines += [
        "| | NOT_FOUND or UNAVAILABLE | no such model, or it is being brought back |",
        "| | DEADLINE_EXCEEDED | the caller's deadline passed |",
        "| | RESOURCE_EXHAUSTED | the message is larger than the sender's or the receiver's bound |",
    ]
    return "\n".join(lines)


def _limits() -> str:
    lines = [
        "## Limits",
        "",
        "Defaults; `recserve serve --config FILE.toml` changes them in its table `[limits]`. `k` is at most 1,000.",
        "",
        "| limit | default | of what |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| `{name}` | {value:,} | {what} |" for name, (value, what) in LIMITS.items())])


def example_message() -> bytes:
    """The packed request of the examples."""
    return pack(_EXAMPLE)


def grpcurl_request() -> dict[str, Any]:
    """The example as grpcurl takes it: JSON of ModelInferRequest, BYTES in base64."""
    content = base64.b64encode(example_message()).decode()
    tensor = {"name": models.REQUEST.name, "datatype": models.REQUEST.datatype, "shape": [1, 1]}
    return {"model_name": models.RECOMMEND, "inputs": [{**tensor, "contents": {"bytes_contents": [content]}}]}


def load_data() -> dict[str, Any]:
    """The example as a data file of Triton's perf_analyzer: one entry a request."""
    return {"data": [{models.REQUEST.name: {"content": [example_message().decode()], "shape": [1]}}]}


def _examples() -> str:
    body = example_message().decode()
    return f"""\
## Examples

The request in all of them:

```json
{body}
```

### tritonclient

```python
{_TRITONCLIENT}```

### grpcurl

With the public `grpc_service.proto` of KServe v2 (`bytes_contents` is base64):

```sh
grpcurl -plaintext -import-path . -proto grpc_service.proto -d @ 127.0.0.1:8001 \\
    inference.GRPCInferenceService/ModelInfer <<'EOF'
{json.dumps(grpcurl_request(), indent=2)}
EOF
```

The answer's `rawOutputContents` is base64 of a 4-byte little-endian length and the JSON of the slate.

### A load generator

Data file for `perf_analyzer -m recommend -u 127.0.0.1:8001 -i grpc --input-data data.json`. Give every request its own
history: equal concurrent requests flatter the figures.

```json
{json.dumps(load_data(), indent=2)}
```
"""


_TRITONCLIENT: Final = """\
import json

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

client = InferenceServerClient("127.0.0.1:8001")
history = [{"item": "tt0076759"}, {"text": "a voyage to a distant planet", "weight": 0.5}]
body = json.dumps({"history": history, "k": 3, "fields": ["title"]}).encode()
tensor = InferInput("request", [1, 1], "BYTES")
tensor.set_data_from_numpy(np.array([[body]], dtype=np.object_))
answer = client.infer("recommend", [tensor])
slate = json.loads(answer.as_numpy("response")[0, 0])
for item in slate["items"]:
    print(item["id"], item["score"], item["contributions"])
"""


def tritonclient_example() -> str:
    """The Python example of the page."""
    return _TRITONCLIENT


if __name__ == "__main__":
    sys.stdout.write(page())
