"""Run the original model with its selected operators replaced where they run, not where they are written.

No module is swapped, no source rewritten and no class changed: the calls that the original makes reach other kernels.
Where an operator is no single kernel, the whole site is replaced: a module by overriding what its call returns, a
function by giving it other code for a while, an `autograd.Function` by another forward and backward, a node of a graph
by interpreting the graph.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Self

import torch
import torch.utils.checkpoint
from torch import fx, nn

from dcsurgery.capture.graphs import Key, call_key
from dcsurgery.capture.origin import origin_of
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Evaluation, Recording
from dcsurgery.catalog import match_function, match_kernel
from dcsurgery.census import site_key
from dcsurgery.label_outputs import check_outputs, map_labels
from dcsurgery.plans import Edit
from dcsurgery.recognition import is_probing
from dcsurgery.sites import NodePlace
from dcsurgery.tree import Slot, get_path, join
from dcsurgery.witness.callables import (
    argument_of,
    forward_of,
    is_checkpointed,
    is_composed,
    is_label,
    is_torch_function,
    returns_of,
)
from dcsurgery.witness.functions import function_behind, replaced_autograd_function, replaced_code
from dcsurgery.witness.kernels import displaced
from dcsurgery.witness.nodes import Interpreted
from dcsurgery.witness.stands import SINGLE_KERNELS, Stand, devices_of, kernel_names, stands_for
from dcsurgery.witness.threads import noticing_new_threads
from dcsurgery.witness.watching import WatchfulRecorder

__all__ = ["Witness"]


class Witness:
    """Context manager, and inside it the function that an edited model has to be.

    Parameters
    ----------
    model
        A copy of the original that nobody else uses; functions that it shares with others are put back at the end, also
        after an exception, and behave as ever in other threads.
    edits
        What was edited.
    recording
        A recorded run of the original: what it called where.
    inputs
        What it will be called with, for the devices.

    Attributes
    ----------
    replaced
        How often the witness stood in at each site.
    uncovered
        Sites that cannot be repeated, with the reasons: then a comparison says nothing.
    """

    def __init__(self, model: nn.Module, edits: Collection[Edit], recording: Recording, inputs: Any = None) -> None:
        self._model = model
        self._recording = recording
        self._stands, self.uncovered = stands_for(edits)
        self._nodes = {
            site_key(edit.place): ((edit.place.source, edit.place.node), *edit.place.more)
            for edit in edits
            if isinstance(edit.place, NodePlace) and site_key(edit.place) in self._stands
        }
        self._scales = [edit for edit in edits if edit.action == "rescale"]
        self._devices = devices_of(model, inputs)
        self._places = Places(model)
        self._recorder = WatchfulRecorder(model, self._places, self)
        self._applying = 0
        self._thread = threading.get_ident()
        self._stack = contextlib.ExitStack()
        self.replaced: Counter[Key] = Counter()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for key in self._stands:
                self._prepare(key, stack)
            self._replace_functions(stack)
            stack.enter_context(displaced(kernel_names(self._stands), self._devices, self._kernel))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its recurrent kernels hide what they run
            stack.enter_context(self._recorder)
            stack.enter_context(noticing_new_threads(self._notice_thread))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _notice_thread(self) -> None:
        self.uncovered["threads"] = "the forward starts some, and the witness stands in for kernels in none but its own"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the edited model has to return."""
        output = self._model(*args, **kwargs)
        for edit in self._scales:
            times_C = functools.partial(torch.mul, other=float(edit.settings["C"]))
            output = map_labels(output, times_C, is_label, check_outputs(edit.settings.get("outputs")))
        return output

    def missed(self, *, other_inputs: bool = False) -> dict[str, str]:
        """Return the sites that ran in the recorded run and at which the witness did not stand in as often, with a reason.

        With other inputs than in the recorded run, once is enough. Other values may lead another way: where its own
        run met a site, that run is what counts.
        """
        found = dict(self.uncovered)
        for key, stand in self._stands.items():
            event = self._recorder.recording.events.get(key) or self._recording.events.get(key)
            runs = 0 if event is None else event.runs
            if key[0] == "fused" and event is None:
                runs = int(self._recording.fused_calls[str(key[1])] > 0)
            if key[0] == "node":
                runs = self._recording.calls[str(key[1])] * len(self._nodes.get(key, ()))
            runs = min(runs, 1) if other_inputs else runs
            if self.replaced[key] < runs and stand.name not in found:
                found[stand.name] = f"stood in {self.replaced[key]} of {runs} times"
        return found

    def idiom(self, evaluation: Evaluation, func: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
        """Stand in for what is written out, at the operation that makes its value."""
        key = evaluation.key
        stand = self.at(key)
        if stand is None:
            return False, None
        source = {id(t): t for t in evaluation.source}
        if len(source) != 1:
            self.uncovered[stand.name] = f"it begins with {len(source)} tensors"
            return False, None
        if is_checkpointed(sys._getframe(1)):
            self.uncovered[stand.name] = "it is repeated in a checkpoint, where no call is seen"
        (x,) = source.values()
        name = getattr(func, "__name__", "")
        writes = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        return True, self.apply(stand, key, x, inplace=writes and args[0] is x)

    # -- where it stands in --------------------------------------------------------------------------------------------

    def apply(self, stand: Stand, key: Key, x: Any, **options: Any) -> Any:
        """Return what stands at a site for an input; nothing that is done for it is the model's own doing."""
        self.replaced[key] += 1
        self._applying += 1
        busy, self._recorder.busy = self._recorder.busy, True
        try:
            return stand.value(x, **options)
        finally:
            self._applying -= 1
            self._recorder.busy = busy

    def at(self, key: Key | None) -> Stand | None:
        """Return what stands at a site, None while a stand itself computes or somebody else's thread runs."""
        if key is None or self._applying or is_probing() or threading.get_ident() != self._thread:
            return None
        return self._stands.get(key)

    def _kernel(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[[], Any]) -> Any:
        row = match_kernel(name)
        recorder = self._recorder
        if row is None or recorder.busy or recorder.in_compound:
            return original()
        key = recorder.current_site(row.name) or self._called_in_backward()
        stand = self.at(key)
        if stand is None or key is None or stand.role != row.role or not self._is_one_kernel(key, stand):
            return original()
        x = args[0] if args else next(iter(kwargs.values()))
        dim = kwargs.get("dim", args[1] if row.name == "glu" and len(args) > 1 else -1)
        first = original() if len(returns_of(name)) > 1 else None
        value = self.apply(stand, key, x, operator=row.name, dim=dim, inplace=name.endswith("_"))
        return value if first is None else (value, *first[1:])

    def _called_in_backward(self) -> Key | None:
        """Return the site of a call that a checkpoint repeats: while torch takes derivatives, no mode sees calls."""
        if torch._C._current_autograd_node() is None:
            return None
        origin = origin_of(sys._getframe(2))
        owner = None if origin.owner is None else self._places.tree.path_of(origin.owner)
        if owner is None or not origin.steps:
            return None
        slots = self._places.callable_slots(owner)
        named = self._places.named_slot(origin.frames[0], slots)
        return self._places.slot_key(named) if named is not None else call_key(owner, origin.steps[-1])

    def _is_one_kernel(self, key: Key, stand: Stand) -> bool:
        if stand.operator not in SINGLE_KERNELS:
            return False
        return key[0] not in ("module", "attribute") or not is_composed(self._held(key))

    def _held(self, key: Key) -> Any:
        return get_path(self._model, join(str(key[1]), str(key[2])))

    def whole(self, key: Key | None, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        """Stand in for a function of torch's that runs several kernels."""
        stand = self.at(key)
        match = None if stand is None else match_function(func)
        if stand is None or key is None or match is None or match.operator.name in SINGLE_KERNELS:
            return False, None
        x = argument_of(func, args, kwargs, stand.returns)
        return True, self.apply(stand, key, x, operator=match.operator.name)

    def _prepare(self, key: Key, stack: contextlib.ExitStack) -> None:
        """Override what modules return, and interpret graphs."""
        if key[0] in ("module", "attribute"):
            value = self._held(key)
            if isinstance(value, nn.Module) and (
                is_composed(value) or self._stands[key].operator not in SINGLE_KERNELS
            ):
                stack.enter_context(forward_of(value, self._module_forward(value)))
        elif key[0] == "node":
            module = self._places.tree.modules.get(str(key[1]))
            if isinstance(module, fx.GraphModule):
                nodes = {
                    node: (self._stands[k], source)
                    for k, runs in self._nodes.items()
                    if k[:2] == key[:2]
                    for source, node in runs
                }
                interpreted = Interpreted(module, nodes, self._apply_node())
                stack.enter_context(forward_of(module, interpreted))

    def _apply_node(self) -> Callable[..., Any]:
        keys = {id(self._stands[key]): key for key in self._nodes}
        return lambda stand, x, **options: self.apply(stand, keys[id(stand)], x, **options)

    def _module_forward(self, module: nn.Module) -> Callable[..., Any]:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            key = self._recorder.key_of(module)
            slots = self._places.slots_of(module)
            if key is None and slots:  # its forward is called directly
                key = self._places.slot_key(slots[0])
            stand = self.at(key)
            if stand is None or key is None:
                return own(*args, **kwargs)
            x = argument_of(own, args, kwargs, stand.returns)
            inplace = bool(getattr(module, "inplace", False))
            return self.apply(stand, key, x, dim=getattr(module, "dim", -1), inplace=inplace)

        return forward

    # -- functions -----------------------------------------------------------------------------------------------------

    def _replace_functions(self, stack: contextlib.ExitStack) -> None:
        done: set[int] = set()
        for key, stand in self._stands.items():
            value = self._held(key) if key[0] == "attribute" else self._recording.functions.get(key)
            if value is None or isinstance(value, nn.Module) or is_torch_function(value):
                continue
            cls = getattr(value, "__self__", None)
            if isinstance(cls, type) and issubclass(cls, torch.autograd.Function):
                if id(cls) not in done:
                    stack.enter_context(replaced_autograd_function(cls, self._autograd_handler(value)))
                done.add(id(cls))
                continue
            function, bound = function_behind(value)
            if function is None:
                self.uncovered[stand.name] = f"a {type(value).__name__} cannot be given other code"
            elif id(function) not in done:
                stack.enter_context(replaced_code(function, self._function_handler(function, bound)))
                done.add(id(function))

    def _function_handler(self, function: Any, bound: int) -> Callable[..., Any]:
        def handler(args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[..., Any]) -> Any:
            if self._applying or is_probing():
                return original(*args, **kwargs)
            key = self._called_at(lambda slot: function_behind(slot.value)[0] is function)
            stand = self.at(key)
            if stand is None or key is None:
                return original(*args, **kwargs)
            x = argument_of(original, args, kwargs, bound)
            return self.apply(stand, key, x)

        return handler

    def _autograd_handler(self, apply: Any) -> Callable[..., Any]:
        def handler(args: tuple[Any, ...]) -> Any:
            del args
            if self._applying or is_probing():
                return None
            key = self._called_at(lambda slot: slot.value == apply)
            stand = self.at(key)
            if stand is None or key is None:
                return None
            self.replaced[key] += 1
            return stand.reference

        return handler

    def _called_at(self, holds: Callable[[Slot], bool]) -> Key | None:
        """Return the site at which a function is being called: the nearest slot that holds it, or the call itself."""
        origin = origin_of(sys._getframe(2))
        owner = None if origin.owner is None else self._places.tree.path_of(origin.owner)
        written = self._recorder.idiom_key(sys._getframe(2))
        if written is not None:
            return written
        # While a checkpoint repeats a part of a model, the modules around it are not running.
        for path in self._recorder.running_paths() or ([] if owner is None else [owner]):
            slots = [slot for slot in self._places.callable_slots(path) if holds(slot)]
            if slots:
                named = self._places.named_slot(origin.frames[0], slots) if len(slots) > 1 else None
                return self._places.slot_key(named or slots[0])
        if owner is None or not origin.steps:
            return None
        return call_key(owner, origin.steps[-1])
