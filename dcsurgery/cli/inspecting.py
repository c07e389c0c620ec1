"""``dcsurgery inspect``."""

from __future__ import annotations

from dcsurgery.cli import options
from dcsurgery.cli.documents import census_document
from dcsurgery.cli.inputs import Source
from dcsurgery.cli.screen import screen_for

__all__ = ["inspect"]


def inspect(
    model: options.Model,
    inputs: options.Inputs = None,
    trust: options.Trust = False,
    imports: options.Imports = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """List every activation and normalization of a model."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        source = Source(model, inputs, trust, tuple(imports or ()))
        source.check()
        from dcsurgery.census import take_census
        from dcsurgery.cli import tables

        with screen.steps(3) as begin:
            begin("reading the inputs")
            example_inputs = source.read_inputs()
            begin(f"reading {model}")
            read = source.read_model()
            begin("finding the sites")
            census = take_census(read.model, example_inputs)
        screen.result(*tables.census_tables(census, screen.width, captures=verbose))
        if not census.inputs_given:
            screen.warn("nothing was run, so this is what the code says: --inputs FILE shows what really runs")
        screen.document(census_document(census, source.describe(read.kind)))
    return 0
