"""Sets of module paths: the same answers as comparing with every path, at the price of one look-up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dcsurgery.paths import PathSet, lineage

PARTS = st.sampled_from(["a", "b", "layers", "0", "1", "act"])
PATHS = st.builds(
    lambda first, rest: first + "".join(f"[{name}]" if hidden else f".{name}" for hidden, name in rest),
    PARTS,
    st.lists(st.tuples(st.booleans(), PARTS), max_size=4),
)


def lies_below(path: str, other: str) -> bool:
    return path.startswith((f"{other}.", f"{other}["))


@settings(max_examples=200, deadline=None)
@given(st.lists(PATHS, max_size=6), PATHS)
def test_a_set_answers_as_a_search_through_its_paths_would(paths, path):
    found = PathSet(paths)
    assert found.covers(path) == any(path == other or lies_below(path, other) for other in paths)
    assert found.is_above(path) == any(lies_below(path, other) for other in paths)
    above = found.above(path)
    assert above is None or above == min((o for o in paths if path == o or lies_below(path, o)), key=len)


def test_the_model_itself_is_above_nothing_but_itself():
    assert PathSet([""]).covers("")
    assert not PathSet([""]).covers("layers.0")
    assert not PathSet(["layers"]).covers("")


def test_names_that_only_begin_alike_are_no_relatives():
    assert not PathSet(["layers"]).covers("layers2.0")


def test_a_path_s_lineage_is_what_stands_above_it_and_itself():
    assert list(lineage("layers.0.acts[1]")) == ["layers", "layers.0", "layers.0.acts", "layers.0.acts[1]"]
    assert list(lineage("")) == []
