"""The pages of the protocol, one for each model, from the contract."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

from recserve_client.contract import (
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
    ModelTrace,
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
from struct_tables import described, fields_table, schemas_of

_EXAMPLE: Final = RecommendRequest(
    history=[Behaviour(item="tt0076759"), Behaviour(text="a voyage to a distant planet", weight=0.5)],
    k=3,
    fields=["title"],
)

_INDEX: Final = """\
# Protocol

recserve speaks the KServe v2 inference protocol over gRPC (`inference.GRPCInferenceService/ModelInfer`). Every request
and every answer is **packed**: one `BYTES` tensor with one element, which is a JSON document in UTF-8. A slate is
MessagePack where the request says so (`"accept": "msgpack"`). So any KServe client in any language can write one by
hand. The shape is always `[1, 1]`. Send one request in each call: Triton makes the batches.

| model | input | output | what it does |
|---|---|---|---|
| [`recommend`](recommend.md) | `request` | `response` | a history, or a user by id -> slate |
| `recommend_text` | `request` | `response` | the same for texts only, every text encoded anew (an ensemble) |
| [`embed`](embed.md) | `request` | `response` | texts -> unit vectors |
| [`items`](items.md) | `request` | `response` | change and read the catalogue: upsert, delete, get, list |
| [`interactions`](interactions.md) | `request` | `response` | what users did: record, history, export, erase, verify |
| `encoder` | `input_ids`, `attention_mask` INT64 `[texts, max_tokens]` | `vector` FP32 `[texts, dim]` | token ids -> \
unit vectors; ones and then zeros in the mask |

`tokenize` and `pool` are steps of `recommend_text` and not meant for callers.

A request that is refused fails alone. Its gRPC status and message are in [Errors](../errors.md). The largest request of
each kind is in the table `[limits]` of the [settings](../settings.md#limits).

The request in all of the examples:
"""

_RECOMMEND: Final = """\
# Model recommend

A [RecommendRequest](#recommendrequest) is answered with a [Slate](#slate). The model `recommend_text` takes the same
request, with a history of texts only.

Rules that types cannot say:

- A request has either a `history` or a `user_id`.
- A behaviour has either an `item`, or a `text`, or a `vector`. A `vector` may have its `text` beside it.
- Texts are not blank, and at least one weight is not zero.
- Unknown names are refused.
- Contributions stand in the order of the history. [Scoring](../../explanation/scoring.md) says what they add up to.
- A page is asked for with the request of the first one and the `cursor` of the page before.
- What is wrong with a request that names a user is told without quoting what came.
"""

_EMBED: Final = """\
# Model embed

An [EmbedRequest](#embedrequest) is answered with an [EmbedResponse](#embedresponse).
"""

_ITEMS: Final = """\
# Model items

A request is an [UpsertItems](#upsertitems), a [DeleteItems](#deleteitems), a [GetItems](#getitems) or a
[ListItems](#listitems), told apart by its `op`. The first two are answered with [ItemsChanged](#itemschanged), which
says what became of each item. The other two are answered with [ItemsFound](#itemsfound).
"""

_INTERACTIONS: Final = """\
# Model interactions

Requests are told apart by their `op`.

| request | answer |
|---|---|
| [RecordInteractions](#recordinteractions), of [NewInteraction](#newinteraction) | \
[InteractionsRecorded](#interactionsrecorded) |
| [ReadHistory](#readhistory) | [UserHistory](#userhistory) |
| [ExportUser](#exportuser) | [UserExport](#userexport) |
| [EraseUser](#eraseuser) | [ErasureReceipt](#erasurereceipt) |
| [VerifyErasure](#verifyerasure) | [ErasureVerified](#erasureverified) |

What is wrong with a request that names a user is told without quoting what came.
"""


def index_page() -> str:
    """What all models have in common, and examples."""
    return _INDEX + _examples()


def recommend_page() -> str:
    """The model `recommend`."""
    return _page(_RECOMMEND, (RecommendRequest, Slate))


def embed_page() -> str:
    """The model `embed`."""
    return _page(_EMBED, (EmbedRequest, EmbedResponse))


def items_page() -> str:
    """The model `items`."""
    messages = (UpsertItems, NewItem, DeleteItems, OldItem, ItemsChanged, GetItems, ListItems, ItemsFound)
    return _page(_ITEMS, messages)


def interactions_page() -> str:
    """The model `interactions`."""
    recorded = (RecordInteractions, NewInteraction, InteractionsRecorded)
    read = (ReadHistory, UserHistory, ExportUser, UserExport)
    erased = (EraseUser, ErasureReceipt, ModelTrace, VerifyErasure, ErasureVerified)
    return _page(_INTERACTIONS, (*recorded, *read, *erased))


def _page(head: str, messages: Sequence[type]) -> str:
    named, schemas = schemas_of(*messages)
    names = named + sorted(set(schemas) - set(named))
    return head + "\n" + "\n".join(_message(name, schemas[name]) for name in names)


def _message(name: str, schema: dict[str, Any]) -> str:
    summary, _ = described(schema["description"])
    lines = [f"## {name}", "", summary, "", *fields_table(schema)]
    del schema["description"]
    full = json.dumps(schema, indent=2, ensure_ascii=False)
    folded = ["", "<details><summary>JSON schema</summary>", "", "```json", full, "```", "", "</details>", ""]
    return "\n".join([*lines, *folded])


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
    return f"""
```json
{example_message().decode()}
```

## tritonclient

```python
{TRITONCLIENT}```

## grpcurl

With the public `grpc_service.proto` of KServe v2 (`bytes_contents` is base64):

```sh
grpcurl -plaintext -import-path . -proto grpc_service.proto -d @ 127.0.0.1:8001 \\
    inference.GRPCInferenceService/ModelInfer <<'EOF'
{json.dumps(grpcurl_request(), indent=2)}
EOF
```

The answer's `rawOutputContents` is base64 of a 4-byte little-endian length and the JSON of the slate.

## A load generator

Data file for `perf_analyzer -m recommend -u 127.0.0.1:8001 -i grpc --input-data data.json`. Give every request its own
history: equal concurrent requests flatter the figures.

```json
{json.dumps(load_data(), indent=2)}
```
"""


#: The Python example of the page.
TRITONCLIENT: Final = """\
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
