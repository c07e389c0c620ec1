"""``dcsurgery plan``."""

from __future__ import annotations

from dcsurgery.cli import options
from dcsurgery.cli.documents import plan_document
from dcsurgery.cli.inputs import Source
from dcsurgery.cli.outputs import check_writable, write_text
from dcsurgery.cli.request import Request
from dcsurgery.cli.screen import screen_for

__all__ = ["plan"]


def plan(
    model: options.Model,
    irelu: options.Irelu = False,
    denorm: options.Denorm = False,
    rescale: options.Rescale = None,
    recipe: options.Recipe = None,
    activation: options.Activation = None,
    gates: options.Gates = False,
    outputs: options.Outputs = None,
    scope: options.Scope = "all",
    include: options.Include = None,
    exclude: options.Exclude = None,
    allow_empty: options.AllowEmpty = False,
    inputs: options.Inputs = None,
    trust: options.Trust = False,
    imports: options.Imports = None,
    output: options.PlanOutput = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write the edits as a YAML file that can be read, changed and applied; without -o, print it."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        source = Source(model, inputs, trust, tuple(imports or ()))
        request = Request(
            irelu,
            denorm,
            rescale,
            activation,
            gates,
            tuple(outputs or ()),
            scope,
            tuple(include or ()),
            tuple(exclude or ()),
            allow_empty,
            recipe,
        )
        source.check()
        if output is not None:
            check_writable(output, (*source.files, *request.files), force)
        request.check()
        from dcsurgery.census import take_census
        from dcsurgery.cli import tables

        with screen.steps(4) as begin:
            begin("reading the inputs")
            example_inputs = source.read_inputs()
            begin(f"reading {model}")
            read = source.read_model()
            begin("finding the sites")
            census = take_census(read.model, example_inputs)
            begin("planning")
            planned = request.plan(read.model, census)
        for note in planned.notes:
            screen.warn(note)
        if output is None:
            screen.result(planned.to_yaml().rstrip("\n"))
        else:
            write_text(output, planned.to_yaml())
            screen.show(tables.edits_table(planned), f"wrote {output}")
        screen.document(plan_document("plan", planned, census, {**source.describe(read.kind), "output": output}))
    return 0
