"""Where a call comes from is read the same whatever was imported before."""

import subprocess
import sys
from pathlib import Path


def test_a_checkpointed_helper_is_found_though_something_was_compiled_first():
    """Once in use, dynamo wraps functions of torch, the end of a walk over frames among them."""
    code = (
        "import torch\n"
        "torch.compile(torch.nn.Linear(2, 2))\n"
        "from models.helpers import CASES\n"
        "import dcsurgery as dcs\n"
        "case = CASES['checkpoint of a helper']\n"
        "(site,) = [site for site in dcs.inspect(case.model().double(), example_inputs=case.inputs) if site.runs]\n"
        "assert site.editable and site.name == 'forward@silu', site\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
