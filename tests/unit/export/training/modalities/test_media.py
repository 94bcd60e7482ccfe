"""Item vectors from pictures and recordings, by small models made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import typer
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from recserve_export.cli.train.commands import train
from recserve_export.errors import EncoderSourceError, TrainingError
from recserve_export.training.modalities.item_files import encode_items
from recserve_export.training.modalities.media_encoder import MediaEncoder
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.trained import TrainedSpace
from recserve_server_ext.index.trained_versions import current_spaces

RATE = 8000
app = typer.Typer()
app.command()(train)  # as `recserve` adds it
RED, BLUE = (255, 0, 0), (0, 0, 255)


def write_model(folder: Path, shape: list[str | int], op: str, name: str, **settings: object) -> Path:
    """A folder with a model of one operator and the settings of its inputs."""
    folder.mkdir()
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node(op, [name], ["out"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [out],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A model whose vector of a picture is the mean of its colours."""
    return write_model(
        tmp_path / "colours", ["batch", 3, 4, 4], "GlobalAveragePool", "pixel_values",
        image_processor_type="ViTImageProcessor", size={"height": 4, "width": 4}, image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
    )  # fmt: skip


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A model whose vector of a recording is the recording."""
    return write_model(
        tmp_path / "sounds", ["batch", "samples"], "Identity", "input_values",
        feature_extractor_type="Wav2Vec2FeatureExtractor", feature_size=1, sampling_rate=RATE, do_normalize=False,
        padding_value=0.0,
    )  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Items with pictures and recordings, some broken or missing."""
    workspace, files = Workspace(tmp_path / "home"), tmp_path / "files"
    files.mkdir()
    workspace.home.mkdir()
    Image.new("RGB", (8, 6), RED).save(files / "red.png")
    Image.new("RGBA", (3, 9), (*BLUE, 255)).save(files / "blue.webp", lossless=True)
    (files / "broken.png").write_bytes(b"\x89PNG\r\n")
    soundfile.write(files / "low.wav", np.full((RATE // 100, 2), 0.5), RATE)
    soundfile.write(files / "fast.flac", np.full(RATE // 50, -0.25), 2 * RATE)
    fields = {
        "red": {"poster": "red.png", "clip": "low.wav"},
        "blue": {"poster": "blue.webp", "clip": "fast.flac"},
        "broken": {"poster": "broken.png", "clip": "red.png"},
        "missing": {"poster": "nowhere.png"},
        "without": {},
    }
    with CatalogueStore(workspace.store, create=True) as store:
        items = [StoredItem(item, {"title": item}, dict(attributes)) for item, attributes in fields.items()]
        store.replace_all(items, field_weights={"title": 1.0})
    return workspace


def test_pictures_become_unit_vectors(workspace: Workspace, pictures: Path, tmp_path: Path) -> None:
    with CatalogueStore(workspace.store) as store:
        done = encode_items(store, "poster", tmp_path / "files", MediaEncoder("image", pictures))
    by_id = dict(zip(done.ids, done.vectors, strict=True))
    # Less their mean: what both colours have in common says nothing of one.
    np.testing.assert_allclose(by_id["red"], np.array([1, 0, -1]) / 2**0.5, atol=1e-6)
    np.testing.assert_allclose(by_id["blue"], np.array([-1, 0, 1]) / 2**0.5, atol=1e-6)
    assert done.unreadable.keys() == {"broken", "missing"}
    assert "nowhere.png: No such file" in done.unreadable["missing"]
    assert done.without == 1


def test_recordings_are_heard_at_the_rate_of_the_model(workspace: Workspace, sounds: Path, tmp_path: Path) -> None:
    encoder = MediaEncoder("audio", sounds)
    with CatalogueStore(workspace.store) as store:
        done = encode_items(store, "clip", tmp_path / "files", encoder)
    assert set(done.ids) == {"red", "blue"}
    assert "red.png" in done.unreadable["broken"]
    # Both last 10 ms: 80 samples of the model.
    assert done.vectors.shape == (2, RATE // 100)
    low, fast = (encoder.encode([encoder.inputs(tmp_path / "files" / name)])[0] for name in ("low.wav", "fast.flac"))
    np.testing.assert_allclose(low, np.full(80, 0.5), atol=1e-4)
    assert (fast[20:60] < 0).all()


def test_files_that_are_all_alike_are_no_vectors(workspace: Workspace, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), RED).save(tmp_path / "files" / "blue.webp", lossless=True)
    with (
        CatalogueStore(workspace.store) as store,
        pytest.raises(TrainingError, match="no item has a file that can be read"),
    ):
        encode_items(store, "poster", tmp_path / "files", MediaEncoder("image", pictures))


def test_a_space_of_pictures_is_published(workspace: Workspace, pictures: Path, tmp_path: Path) -> None:
    given = ["vectors", "--image", "poster", "--model", str(pictures), "--files", str(tmp_path / "files")]
    done = CliRunner().invoke(app, [*given, "--space", "pictures", "--home", str(workspace.home)])
    assert done.exit_code == 0, done.output
    assert '[strategies.pictures] kind = "vectors"' in done.output
    assert "2 files cannot be read, 1 items have no poster" in done.output
    space = TrainedSpace.load(current_spaces(workspace.spaces)["pictures"])
    assert sorted(space.ids) == ["blue", "red"]
    assert space.manifest.made_from["image"] == "poster"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], "one of --from, --image, --audio and --graph"),
        (["--image", "poster", "--audio", "clip"], "one of --from, --image"),
        (["--image", "poster"], "--model is needed"),
        (["--graph", "x.kg"], "--links is needed"),
    ],
)
def test_incomplete_sources_are_refused(tmp_path: Path, given: list[str], named: str) -> None:
    done = CliRunner().invoke(app, ["vectors", "--home", str(tmp_path), *given])
    assert done.exit_code == 2
    assert named in done.output.replace("\n", " ")


def test_models_that_cannot_be_used_are_refused(workspace: Workspace, pictures: Path, sounds: Path) -> None:
    with pytest.raises(EncoderSourceError, match=r"has 0 \.onnx files"):
        MediaEncoder("image", pictures.parent)
    with (
        CatalogueStore(workspace.store) as store,
        pytest.raises(TrainingError, match="no item has a file that can be read: no item has the field 'cover'"),
    ):
        encode_items(store, "cover", pictures, MediaEncoder("image", pictures))
    (sounds / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EncoderSourceError, match="cannot be used"):
        MediaEncoder("audio", sounds)
    (sounds / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderSourceError, match=r"has no preprocessor_config\.json"):
        MediaEncoder("audio", sounds)
