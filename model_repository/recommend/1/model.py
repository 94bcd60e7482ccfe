"""Triton model `recommend`: packed request -> packed slate. Converts tensors; the logic is in recserve_server_ext."""

from recserve_server_ext.triton.recommend import RecommendModel


class TritonPythonModel(RecommendModel):
    """Recommends items for histories and users."""
