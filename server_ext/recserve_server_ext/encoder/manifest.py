"""The manifest of an encoder folder, `encoder.json`, and the fingerprint that indexes refer to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.files import read_json, verify_files

MANIFEST = "encoder.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
FORMAT = 2
#: Advice for an encoder folder that cannot be used.
EXPORT_AGAIN = "export the encoder again"

Precision = Literal["fp32", "int8", "int8-fast", "fp16", "bf16"]
#: Precisions whose vectors depend on how the CPU multiplies.
INT8: Final[tuple[Precision, ...]] = ("int8", "int8-fast")

#: Role of a text: of a history or a search, or of an item.
Role = Literal["query", "passage"]
LongText = Literal["truncate", "chunk_mean"]


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts put before texts, by role; for models that were trained with prompts.

    Attributes:
        query: Prompt of the texts of a history or of a request to `embed`.
        passage: Prompt of the texts of items.
    """

    query: str = ""
    passage: str = ""


class EncoderManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `encoder.json`.

    Attributes:
        format: Version of this layout.
        name: Name of the exported model.
        precision: Precision of the weights and matrix products.
        dim: Length of a vector.
        max_tokens: Most tokens of a text; longer texts are truncated.
        pooling: How token vectors become one, inside the graph, as is the L2 normalisation.
        source_sha256: SHA-256 of the exported weights file.
        files: SHA-256 of every file of the folder that serving reads.
        versions: Versions of the packages that made the export.
        prompts: Prompts put before texts.
        long_text: `truncate`, or `chunk_mean`: the vector of an item's long text is the mean over its parts.
    """

    name: str
    precision: Precision
    dim: int
    max_tokens: int
    pooling: str
    source_sha256: str
    files: dict[str, str]
    versions: dict[str, str]
    prompts: Prompts = Prompts()
    long_text: LongText = "truncate"
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a text's vector: graph, weights, tokenizer, pooling, precision, length, prompts."""
        parts = [self.files[MODEL], self.files[TOKENIZER], self.pooling, self.precision, str(self.max_tokens)]
        if self.prompts != Prompts():
            parts.append(msgspec.json.encode(self.prompts).decode())
        if self.long_text != "truncate":
            parts.append(self.long_text)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def runtime_fingerprint(self) -> str:
        """The fingerprint on this CPU, with the arithmetic for int8, since its vectors depend on that."""
        if self.precision in INT8:
            return f"{self.fingerprint}+{cpu.int8_arithmetic()}"
        return self.fingerprint


def read_manifest(folder: Path, *, verify: bool = True) -> EncoderManifest:
    """Read `encoder.json` and check the files against it.

    Args:
        verify: Whether to compute the checksums of the files.

    Raises:
        EncoderError: It is missing, unreadable or of another format, or a file does not match its checksum.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise EncoderError(f"no encoder at {folder} (no {MANIFEST}); make one with: recserve export encoder")
    manifest = read_json(path, EncoderManifest, FORMAT, EncoderError, EXPORT_AGAIN)
    verify_files(folder, manifest.files, EncoderError, EXPORT_AGAIN, checksums=verify)
    return manifest
