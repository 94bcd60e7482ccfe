"""Canonical vectors of networks: the same network gives them, one with other weights does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_server_ext.common.errors import SnapshotError, SpaceError
from recserve_server_ext.networks.canonical import check_canonical, made_histories
from recserve_server_ext.networks.load_check import try_in_process
from recserve_server_ext.networks.network import CANONICAL, NETWORK, Network, new_network, read_network, write_network
from support.sequence import DIM, LENGTH, bit_flipped, drawn_anew, tiny_generator, tiny_network, with_weight


def with_other_decoder(network: Network, other: Network) -> Network:
    """A network with the decoder of another one, and a manifest that fits."""
    changed = new_network(network.content, DIM, LENGTH, decoder=other.decoder)
    return changed._replace(canonical=network.canonical)


def test_histories_are_of_all_lengths_and_always_the_same() -> None:
    made, again = made_histories(DIM, LENGTH, 17), made_histories(DIM, LENGTH, 17)
    assert set(made.mask.sum(axis=1).tolist()) == set(range(LENGTH + 1))
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("network", [tiny_network, tiny_generator])
def test_what_was_trained_passes_again(tmp_path: Path, network: object) -> None:
    assert callable(network)
    trained: Network = network()
    write_network(tmp_path, trained)
    found = read_network(tmp_path, trained.manifest, "train again")
    assert found is not None
    check_canonical(found, tmp_path, "train again")
    try_in_process(tmp_path, trained.manifest, 60)


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        (lambda: with_weight(tiny_network(), bit_flipped), "vector"),
        (lambda: with_weight(tiny_network(), drawn_anew), "vector"),
        (lambda: with_weight(tiny_network(), lambda weights: weights * np.float32(np.nan)), "vector"),
        (lambda: with_weight(tiny_network(), lambda weights: weights * np.float32(1.2)), "vector"),
        (lambda: tiny_network(1)._replace(canonical=tiny_network().canonical), "vector"),
        (lambda: with_other_decoder(tiny_generator(), tiny_generator(1)), "log_probs"),
    ],
    ids=["one bit", "other weights", "NaN", "longer", "another network", "another decoder"],
)
def test_other_weights_with_a_right_checksum_are_refused(tmp_path: Path, wrong: object, output: str) -> None:
    assert callable(wrong)
    network: Network = wrong()
    write_network(tmp_path, network)
    assert read_network(tmp_path, network.manifest, "train again") is not None
    with pytest.raises(SpaceError) as caught:
        check_canonical(network, tmp_path, "train again")
    said = str(caught.value)
    assert said.startswith(
        f"{tmp_path / NETWORK} does not give what it gave where it was trained: {output} of history "
    )
    assert said.endswith(" of its length, over 0.0001; train again")
    with pytest.raises(SpaceError, match="train its space again on this machine, or go back"):
        try_in_process(tmp_path, network.manifest, 60)


@pytest.mark.parametrize("kept", [b"", b"PK no archive", b"\x93NUMPY"])
def test_without_canonical_vectors_nothing_is_served(tmp_path: Path, kept: bytes) -> None:
    network = tiny_network()._replace(canonical=kept)
    with pytest.raises(SpaceError, match=r"cannot be compared with canonical\.npz: .*; train again"):
        check_canonical(network, tmp_path, "train again")
    write_network(tmp_path, network)
    (tmp_path / CANONICAL).unlink()
    with pytest.raises(SnapshotError, match="train again"):
        read_network(tmp_path, network.manifest, "train again")


def test_canonical_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    network = tiny_network()._replace(canonical=tiny_generator().canonical)
    check_canonical(network, tmp_path, "train again")  # of the same network, and more
    network = tiny_generator()._replace(canonical=tiny_network().canonical)
    with pytest.raises(SpaceError, match=r"cannot be compared with canonical\.npz"):
        check_canonical(network, tmp_path, "train again")


def test_a_network_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path, tiny_network())
    with pytest.raises(SpaceError, match="could not be loaded within 0 s"):
        try_in_process(tmp_path, tiny_network().manifest, 1e-3)
