"""zkapex: federated unlearning that proves itself.

A deletion request removes data from every client's personalised model by a sparse, curvature-aware edit of its
weights; each client proves in zero knowledge that it made exactly this edit, and gets a receipt anybody can verify.

The subpackages are imported on demand: ``import zkapex`` loads neither torch nor Flower.
"""

from __future__ import annotations

__version__ = "0.2.0"

__all__ = ["__version__"]
