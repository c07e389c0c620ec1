"""fairchem's PaiNN, so that it can be differentiated without periodic boundaries, too."""

from __future__ import annotations

import dataclasses
from typing import Any

from fairchem.core.models.painn import painn

__all__ = ["PaiNN"]


class PaiNN(painn.PaiNN):
    """PaiNN of fairchem; its weights, values and derivatives are the same where those of fairchem's exist."""

    def generate_graph(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairchem's graph with lengths of its own.

        PaiNN writes into the lengths. Without periodic boundaries they are what ``norm`` keeps for its derivative, and
        differentiating fails.
        """
        graph = super().generate_graph(*args, **kwargs)
        return dataclasses.replace(graph, edge_distance=graph.edge_distance.clone())
