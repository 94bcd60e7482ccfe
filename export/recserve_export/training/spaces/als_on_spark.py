"""Trains the item factors of `als` on Spark: `ALS` of MLlib, by workers of a cluster or of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from recserve_export.errors import TrainingError
from recserve_server_ext.common.arrays import Vectors

if TYPE_CHECKING:
    from recserve_export.training.spaces.als import AlsSettings

#: The environment variable that names the cluster.
MASTER: Final = "SPARK_MASTER"
_QUIET: Final = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}


def factors_on_spark(confidence: Any, settings: AlsSettings) -> Vectors:
    """What `item_factors` gives, by `settings.workers` workers of the cluster at SPARK_MASTER, or of one started here.

    Spark multiplies the regularisation of a user or an item by its interactions (Zhou et al., "Large-scale parallel
    collaborative filtering for the Netflix prize", AAIM 2008). It gets the share that makes the mean over users that of
    `settings`.

    Args:
        confidence: [users, items] sparse, 1 + alpha w; every item has an interaction.
        settings: Of the training.

    Raises:
        TrainingError: PySpark is not installed, or Spark gives up.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.ml.recommendation import ALS
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise TrainingError(f"Spark needs the module {error.name!r}: pip install 'recserve[train,spark]'") from error
    pairs = confidence.tocoo()
    columns = {"user": pairs.row.astype(np.int32), "item": pairs.col.astype(np.int32), "rating": pairs.data - 1.0}
    builder = SparkSession.builder.appName("recserve").master(os.environ.get(MASTER, f"local[{settings.workers}]"))
    for name, value in _QUIET.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
        try:
            training = ALS(
                rank=settings.factors,
                maxIter=settings.iterations,
                regParam=settings.regularization * confidence.shape[0] / confidence.nnz,
                implicitPrefs=True,
                alpha=1.0,
                ratingCol="rating",
                seed=settings.seed,
                numUserBlocks=settings.workers,
                numItemBlocks=settings.workers,
            )
            found = training.fit(session.createDataFrame(pa.table(columns))).itemFactors.toArrow()
        finally:
            session.stop()
    except (Py4JError, PySparkException) as error:
        raise TrainingError(f"Spark gave up: {str(error).strip().splitlines()[0]}") from error
    factors = np.empty((confidence.shape[1], settings.factors), np.float32)
    factors[found["id"].to_numpy()] = np.stack(found["features"].to_numpy())
    return factors
