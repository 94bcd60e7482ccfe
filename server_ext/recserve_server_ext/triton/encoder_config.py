"""The Triton configuration of the model `encoder`, for each target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_server_ext.common.files import write_file
from recserve_server_ext.config.server import Provider, Target
from recserve_server_ext.encoder.manifest import Precision
from recserve_server_ext.encoder.padding import padded_widths

#: Folder and file with the attention mask of warm-up requests: ones, of which Triton reads as many as it needs.
WARMUP: Final = "warmup"
MASK: Final = "attention_mask"
#: Folder of the engines that TensorRT builds for onnxruntime; a server puts its absolute path in.
ENGINE_CACHE: Final = "trt_engine_cache"
ENGINE_CACHE_KEY: Final = "trt_engine_cache_path"
_WORKSPACE_BYTES: Final = 2 << 30
_FILES: Final[dict[Target, str]] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What decides the configuration of an encoder.

    Attributes:
        max_tokens: Most tokens of a text.
        max_batch: Most texts of a batch.
        preferred: Sizes of batches that Triton should make, ascending.
        threads: Instances of target onnxruntime on the CPU.
    """

    target: Target
    provider: Provider = "cpu"
    precision: Precision
    dim: int
    max_tokens: int
    max_batch: int
    preferred: tuple[int, ...] = ()
    threads: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token tensors that texts are padded to."""
        return padded_widths(self.target, self.max_tokens)

    @property
    def on_gpu(self) -> bool:
        """Whether it needs a GPU."""
        return self.target == "tensorrt" or (self.target == "onnxruntime" and self.provider != "cpu")

    @property
    def usual_batch(self) -> int:
        """The batch size that kernels are tuned for."""
        return max((size for size in self.preferred if size <= self.max_batch), default=1)

    def proto(self) -> pb.ModelConfig:
        """The configuration as protobuf."""
        config = pb.ModelConfig(name=names.ENCODER, max_batch_size=self.max_batch)
        config.backend = "python" if self.target == "embedded" else self.target
        if self.target != "embedded":
            config.default_model_filename = _FILES[self.target]
        width = self.max_tokens if self.target == "embedded" else -1
        for tensor in (names.INPUT_IDS, names.ATTENTION_MASK):
            config.input.add(name=tensor.name, data_type=pb.TYPE_INT64, dims=(width,))
        config.output.add(name=names.VECTOR, data_type=pb.TYPE_FP32, dims=(self.dim,))
        config.version_policy.latest.num_versions = 1
        # No delay and no queue policy, as of the other models: docs/decisions/004-no-queue-policy.md.
        config.dynamic_batching.preferred_batch_size.extend(size for size in self.preferred if size <= self.max_batch)
        config.dynamic_batching.SetInParent()
        kind = pb.ModelInstanceGroup.KIND_GPU if self.on_gpu else pb.ModelInstanceGroup.KIND_CPU
        profiles = [str(number) for number in range(len(self.widths))] if self.target == "tensorrt" else []
        # Each instance has one thread: threads that share a run wait for one another, and spin meanwhile.
        count = self.threads if self.target == "onnxruntime" and not self.on_gpu else 1
        config.instance_group.add(kind=kind, count=count, profile=profiles)
        self._optimise(config)
        self._warm_up(config)
        return config

    def _optimise(self, config: pb.ModelConfig) -> None:
        optimisation = config.optimization
        # Pinned memory speeds up copies to a GPU, and costs something without one.
        optimisation.input_pinned_memory.enable = optimisation.output_pinned_memory.enable = self.on_gpu
        if self.target == "tensorrt":
            optimisation.cuda.output_copy_stream = True
        if self.target != "onnxruntime":
            return
        optimisation.graph.SetInParent()  # level 0: all of onnxruntime's optimisations
        if self.provider == "cpu":
            config.parameters["intra_op_thread_count"].string_value = "1"
            return
        accelerators = optimisation.execution_accelerators.gpu_execution_accelerator
        if self.provider == "tensorrt":
            accelerators.add(name="tensorrt", parameters=self._tensorrt_options())
        # fp32 must not be computed in TF32, which has 10 bits of mantissa.
        accelerators.add(name="cuda", parameters={"use_tf32": "0"} if self.precision == "fp32" else {})

    def _tensorrt_options(self) -> dict[str, str]:
        """Options of onnxruntime's TensorRT provider, by the names of Triton's backend."""
        shapes = profile_shapes(self)
        return {
            "precision_mode": "FP16" if self.precision == "fp16" else "FP32",
            "max_workspace_size_bytes": str(_WORKSPACE_BYTES),
            "trt_engine_cache_enable": "1",
            ENGINE_CACHE_KEY: ENGINE_CACHE,
            "trt_timing_cache_enable": "1",
            # One profile over all widths, so that one engine is built, at the first request.
            "trt_profile_min_shapes": shapes[0].least,
            "trt_profile_opt_shapes": shapes[-1].usual,
            "trt_profile_max_shapes": shapes[-1].most,
        }

    def _warm_up(self, config: pb.ModelConfig) -> None:
        """Warm up with one text of each width, and on a GPU with the usual batch of the widest: allocates all."""
        shapes = [(width, 1) for width in self.widths]
        if self.on_gpu and self.usual_batch > 1:
            shapes.append((self.max_tokens, self.usual_batch))
        for width, batch in shapes:
            sample = config.model_warmup.add(name=f"{batch} x {width} tokens", batch_size=batch)
            ids, mask = sample.inputs[names.INPUT_IDS.name], sample.inputs[names.ATTENTION_MASK.name]
            for tensor in (ids, mask):
                tensor.data_type = pb.TYPE_INT64
                tensor.dims.append(width)
            ids.zero_data = True
            mask.input_data_file = MASK


@dataclass(frozen=True)
class ProfileShapes:
    """Shapes of one TensorRT profile, as `input_ids:1x16,attention_mask:1x16`; kernels are chosen for `usual`."""

    least: str
    usual: str
    most: str


def profile_shapes(config: EncoderConfig) -> list[ProfileShapes]:
    """One profile for each width; together they take every width up to `max_tokens`."""

    def shape(batch: int, width: int) -> str:
        return ",".join(f"{tensor.name}:{batch}x{width}" for tensor in (names.INPUT_IDS, names.ATTENTION_MASK))

    profiles, before = [], 0
    for width in config.widths:
        profiles.append(
            ProfileShapes(
                least=shape(1, before + 1),
                usual=shape(config.usual_batch, width),
                most=shape(config.max_batch, width),
            )
        )
        before = width
    return profiles


def write_warmup(model: Path, max_tokens: int) -> None:
    """Write the attention mask of the warm-up requests of a model folder."""
    write_file(model / WARMUP / MASK, np.ones(max_tokens, "<i8").tobytes())
