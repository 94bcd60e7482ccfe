"""Decoders of semantic ids: quantised vectors, steps in any company, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.networks.decoder import DecoderRunner, quantised
from recserve_server_ext.networks.network import CODEBOOKS, DECODER, Decoder, read_network, write_network
from support.sequence import CODES, DIM, LEVELS, tiny_generator, tiny_network

RANDOM = np.random.default_rng(3)


def decoder() -> Decoder:
    found = tiny_generator().decoder
    assert found is not None
    return found


def test_each_code_is_the_nearest_centre_to_what_is_left() -> None:
    codebooks, vectors = decoder().codebooks, RANDOM.standard_normal((40, DIM)).astype(np.float32)
    for vector, codes in zip(vectors, quantised(vectors, codebooks).tolist(), strict=True):
        rest = vector.astype(np.float64)
        for centres, code in zip(codebooks.astype(np.float64), codes, strict=True):
            assert code == int(np.argmin(((rest - centres) ** 2).sum(axis=1)))
            rest = rest - centres[code]


def test_blocks_of_vectors_and_rows_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = RANDOM.standard_normal((50, DIM)).astype(np.float32)
    codes = quantised(vectors, decoder().codebooks)
    whole = DecoderRunner(decoder())(vectors, codes)
    monkeypatch.setattr("recserve_server_ext.networks.decoder._AT_ONCE", 7)
    np.testing.assert_array_equal(quantised(vectors, decoder().codebooks), codes)
    for one, other in zip(DecoderRunner(decoder())(vectors, codes), whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("steps", range(LEVELS + 1))
def test_a_row_is_the_same_to_the_bit_in_any_company(steps: int) -> None:
    runner, users = DecoderRunner(decoder()), RANDOM.standard_normal((37, DIM)).astype(np.float32)
    codes = RANDOM.integers(0, CODES, (37, steps))
    together = runner(users, codes)
    assert together.log_probs.shape == (37, min(steps + 1, LEVELS), CODES)
    np.testing.assert_allclose(np.exp(together.log_probs).sum(axis=2), 1.0, atol=1e-5)
    for size in (1, 2, 3, 5):
        alone = runner(users[:size], codes[:size])
        np.testing.assert_array_equal(alone.log_probs, together.log_probs[:size])
        np.testing.assert_array_equal(alone.leaf, together.leaf[:size])


def test_later_codes_change_nothing_before_them() -> None:
    runner, users = DecoderRunner(decoder()), RANDOM.standard_normal((4, DIM)).astype(np.float32)
    codes = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
    whole = runner(users, codes).log_probs
    for steps in range(LEVELS):
        np.testing.assert_allclose(runner(users, codes[:, :steps]).log_probs, whole[:, : steps + 1], atol=1e-5)


def test_a_decoder_is_a_part_of_its_network(tmp_path: Path) -> None:
    network = tiny_generator()
    assert network.manifest.levels == LEVELS
    assert network.manifest.fingerprint != tiny_network().manifest.fingerprint
    write_network(tmp_path, network)
    found = read_network(tmp_path, network.manifest, "train again")
    assert found is not None
    assert found.decoder is not None
    assert (found.manifest, found.content, found.decoder.content) == (
        network.manifest,
        network.content,
        decoder().content,
    )
    np.testing.assert_array_equal(found.decoder.codebooks, decoder().codebooks)


@pytest.mark.parametrize("name", [DECODER, CODEBOOKS])
def test_a_damaged_or_missing_file_of_a_decoder_is_refused(name: str, tmp_path: Path) -> None:
    network = tiny_generator()
    write_network(tmp_path, network)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SnapshotError, match="train again"):
        read_network(tmp_path, network.manifest, "train again")
    (tmp_path / name).unlink()
    with pytest.raises(SnapshotError, match="train again"):
        read_network(tmp_path, network.manifest, "train again")


def test_what_is_no_decoder_is_refused() -> None:
    with pytest.raises(SnapshotError, match="onnxruntime cannot load"):
        DecoderRunner(Decoder(b"no graph", decoder().codebooks))
