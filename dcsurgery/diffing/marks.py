"""How changes and sites are marked in pictures: sign, outline and colour, each enough by itself.

The colours are Okabe and Ito's, darkened or lightened until their text can be read on paper or screen: colour-blind
readers can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["OUTPUT_BLOCK", "PLAIN", "ROLES", "SIGNS", "STATES", "Mark"]


@dataclass(frozen=True)
class Mark:
    """How boxes of one state or role look.

    Attributes
    ----------
    name
        The state or role.
    sign
        What stands before a box's name.
    color, fill
        Outline (and text) and filling, on light paper.
    dark, dark_fill
        The same on dark paper.
    dash
        Dashes of the outline in SVG's form, empty for an unbroken one.
    style
        The outline in graphviz's words.
    width
        Width of the outline in points.
    """

    name: str
    sign: str
    color: str
    fill: str
    dark: str
    dark_fill: str
    dash: str = ""
    style: str = "solid"
    width: float = 2.0


PLAIN = Mark("same", "", "#7b8794", "#f4f6f8", "#8b98a5", "#20262d", width=1.0)

_MOVED = ("#005a94", "#e0f0fb", "#7fc4f5", "#12304a", "1.5 3", "dotted")

#: State of a change to its mark.
STATES: Mapping[str, Mark] = MappingProxyType(
    {
        mark.name: mark
        for mark in (
            Mark("replaced", "~", "#b45f06", "#fff1dc", "#f5b041", "#3b2c12"),
            Mark("deleted", "-", "#a8321f", "#fde7e2", "#ff9b85", "#43201a", "5 3", "dashed"),
            Mark("inserted", "+", "#00714f", "#ddf5ec", "#4fd1a5", "#10382b", "", "bold", 3.0),
            Mark("moved", ">", *_MOVED),
            Mark("renamed", ">", *_MOVED),
            Mark("rewired", "≈", "#8a3f6e", "#f8e6f1", "#f0a8d0", "#3f1f33", "8 3 2 3", "dashed"),
        )
    }
)

#: State of a change to the sign before it.
SIGNS: Mapping[str, str] = MappingProxyType({"same": ""} | {name: mark.sign for name, mark in STATES.items()})

#: Role of a site to its mark.
ROLES: Mapping[str, Mark] = MappingProxyType(
    {
        mark.name: mark
        for mark in (
            Mark("activation", "ƒ", "#b45f06", "#fff1dc", "#f5b041", "#3b2c12"),
            Mark("normalization", "‖", "#005a94", "#e0f0fb", "#7fc4f5", "#12304a", "5 3", "dashed"),
            Mark("gate", "×", "#8a3f6e", "#f8e6f1", "#f0a8d0", "#3f1f33", "1.5 3", "dotted"),  # noqa: RUF001 - it is one
            Mark("basis", "φ", "#00714f", "#ddf5ec", "#4fd1a5", "#10382b", "8 3 2 3", "dashed"),
        )
    }
)

#: Modules that are output blocks.
OUTPUT_BLOCK = Mark("output-block", "", "#1b1f24", "#fbf6d9", "#e6e9ec", "#2e2b18", "", "bold", 3.0)
