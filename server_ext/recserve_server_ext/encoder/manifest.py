"""`encoder.json`: what an encoder folder holds, and the fingerprint that indexes refer to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.files import sha256_of

MANIFEST = "encoder.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
#: 2: int8 graphs have one scale for each token, so that texts share runs.
FORMAT = 2

Precision = Literal["fp32", "int8", "int8-fast", "fp16", "bf16"]
#: Those whose vectors depend on how the CPU multiplies.
INT8: Final[tuple[Precision, ...]] = ("int8", "int8-fast")

#: What a text is: of a history or a search, or of an item.
Role = Literal["query", "passage"]
LongText = Literal["truncate", "chunk_mean"]


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is put before a text, by its role; for models that were trained with prompts.

    Attributes:
        query: Before the texts of a history and those sent to `embed`.
        passage: Before the texts of items.
    """

    query: str = ""
    passage: str = ""


class EncoderManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `encoder.json`.

    Attributes:
        format: Version of this layout.
        name: Name of the model that was exported.
        precision: Of the weights and matrix products.
        dim: Length of a vector.
        max_tokens: Longer texts are truncated to this many tokens.
        pooling: How token vectors become one (inside the graph, as is the L2 normalisation).
        source_sha256: Of the weights file the export began from.
        files: SHA-256 of every file of the folder that serving reads.
        versions: Of the packages that made the export.
        prompts: Put before texts.
        long_text: `truncate`, or `chunk_mean`: the vector of an item's longer text is the mean of those of its parts.
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
        # What is not set is not hashed.
        if self.prompts != Prompts():
            parts.append(msgspec.json.encode(self.prompts).decode())
        if self.long_text != "truncate":
            parts.append(self.long_text)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def runtime_fingerprint(self) -> str:
        """The fingerprint on this CPU: for int8 the arithmetic is part of it, since vectors depend on it."""
        if self.precision in INT8:
            return f"{self.fingerprint}+{cpu.int8_arithmetic()}"
        return self.fingerprint


def read_manifest(folder: Path, *, verify: bool = True) -> EncoderManifest:
    """Read `encoder.json` and check the files against it.

    Args:
        folder: An encoder folder.
        verify: Whether to compute the checksums of the files.

    Raises:
        EncoderError: Missing, unreadable, of another format, or a file does not match its checksum.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=EncoderManifest)
    except FileNotFoundError:
        raise EncoderError(f"no encoder at {folder} (no {MANIFEST}); make one with: recserve export encoder") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise EncoderError(f"{path} cannot be read: {error}; export the encoder again") from error
    if manifest.format != FORMAT:
        raise EncoderError(f"{path} has format {manifest.format}, this version reads {FORMAT}; export again")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise EncoderError(f"{file} is missing; export the encoder again")
        if verify and (found := sha256_of(file)) != expected:
            raise EncoderError(
                f"{file} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; export the encoder again"
            )
    return manifest
