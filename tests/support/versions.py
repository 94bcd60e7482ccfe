"""Versions of encoders that are one as far as a manifest can tell: for tests that load none."""

from __future__ import annotations

from pathlib import Path

import msgspec

from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.encoder.loaded import LoadedEncoder
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, EncoderManifest, Precision
from recserve_server_ext.encoder.versions import new_version
from support.small_snapshot import DIM


def fill(folder: Path, model: str, precision: Precision = "fp32") -> EncoderManifest:
    """Write such files into a folder."""
    (folder / MODEL).write_text(model)
    (folder / TOKENIZER).write_text("{}")
    manifest = EncoderManifest(
        name=model,
        precision=precision,
        dim=DIM,
        max_tokens=8,
        pooling="mean",
        source_sha256="",
        files={name: sha256_of(folder / name) for name in (MODEL, TOKENIZER)},
        versions={},
    )
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return manifest


def export(encoders: Path, model: str, precision: Precision = "fp32") -> EncoderManifest:
    """Add such a version."""
    with new_version(encoders, precision) as aside:
        return fill(aside, model, precision)


def loaded_encoder(fingerprint: str, folder: str = "/encoder", *, dim: int = 4, max_tokens: int = 8) -> LoadedEncoder:
    """An entry of a server's table, of an encoder that is nowhere."""
    manifest = EncoderManifest(
        name="none",
        precision="fp32",
        dim=dim,
        max_tokens=max_tokens,
        pooling="mean",
        source_sha256="",
        files={},
        versions={},
    )
    return LoadedEncoder(fingerprint, folder, manifest, 32)
