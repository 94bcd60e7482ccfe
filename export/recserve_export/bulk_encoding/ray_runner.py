"""Ray: encodes the pieces of a job by actors on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recserve_export.bulk_encoding.job import Job, Outcome, Piece, PieceEncoder
from recserve_export.errors import ExportError
from recserve_server_ext.common import cpu


def run_on_ray(
    encoder: Path, job: Job, pieces: Sequence[Piece], done: Callable[[Outcome], None], address: str | None = None
) -> None:
    """Encode the pieces by actors of one core each, on Ray Data.

    An actor or node that is lost is replaced and its pieces are done again. The paths must be the same on every node.

    Args:
        encoder: Encoder folder.
        job: From `prepare`.
        pieces: From `prepare`.
        done: Called with what became of each piece.
        address: Address of a cluster; `None` starts one here for this job.

    Raises:
        ExportError: Ray is not installed, or gives up.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ExportError("Ray is not installed: pip install 'recserve[export,ray]'") from error
    local: dict[str, Any] = {"num_cpus": cpu.usable_cores(), "include_dashboard": False} if address is None else {}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Lost actors are replaced, a refusal of ours is not tried again.
        context.actor_task_retry_on_errors = False
        actors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # A block for each piece from the start: a repartition would wait for a core that the actors hold.
        rows = ray.data.from_items(
            [{"piece": msgspec.json.encode(piece)} for piece in pieces], override_num_blocks=len(pieces)
        )
        encoded = rows.map_batches(
            RayEncoder,
            fn_constructor_args=(str(encoder), msgspec.json.encode(job)),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(pieces))),
        )
        for row in encoded.iter_rows():
            done(Outcome(int(row["rows"]), int(row["refused"])))
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise ExportError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()


class RayEncoder:
    """A `PieceEncoder` in an actor."""

    def __init__(self, encoder: str, job: bytes) -> None:
        self._encode = PieceEncoder(Path(encoder), msgspec.json.decode(job, type=Job), threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Encode the pieces of a batch."""
        outcomes = [self._encode(msgspec.json.decode(raw, type=Piece)) for raw in batch["piece"]]
        return {"rows": [one.rows for one in outcomes], "refused": [one.refused for one in outcomes]}
