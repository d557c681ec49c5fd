"""A second device that is not there: tensors said to be on it lie in memory, and mixing them with others is an error.

It finds what a run on a CPU cannot: a tensor made on the wrong side. A real GPU's kernels, streams and dtypes it does
not show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

THERE = torch.device("cuda", 0)
_MOVES = {"_has_compatible_shallow_copy_type", "to", "cpu", "copy_", "set_", "__set__", "type_as"}


class Elsewhere(TorchFunctionMode):
    """While it is entered, `device="cuda"` works. Raises AssertionError naming a call that mixes devices."""

    def __init__(self) -> None:
        super().__init__()
        self._there = torch.utils.weak.WeakIdKeyDictionary()
        self.calls = 0

    def move(self, module: nn.Module) -> None:
        """Say that a module's weights are there."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._there[tensor] = True

    def is_there(self, tensor: Tensor) -> bool:
        """Whether a tensor is there."""
        return tensor in self._there

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One call: with its device taken out, and its result marked."""
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "_parse_to":  # Module.to reads its arguments with it, before it moves anything
            return func(*args, **named)
        found = list(tensors((args, named)))
        there = any(map(self.is_there, found))
        if getattr(func, "__self__", None) is Tensor.device:
            return THERE if there else torch.device("cpu")
        asked = [d for d in (named.pop("device", None), *args) if is_device(d)]
        self._check(name, found, moving=bool(asked))
        out = func(*("cpu" if is_device(a) else a for a in args), **named)
        if asked or name == "cpu":
            there = bool(asked) and torch.device(asked[0]).type == "cuda"
            if any(out is one for one in found):
                out = out.clone()  # a move makes another tensor
        self.calls += there
        if there:
            written = found[:1] if name == "__set__" else []  # `weight.data = moved`, as Module.to does
            self._there.update((one, True) for one in (*tensors(out), *written))
        return out

    def _check(self, name: str, found: Sequence[Tensor], *, moving: bool) -> None:
        there = any(map(self.is_there, found))
        assert name != "numpy" or not there, "a tensor on the device has no numpy"
        if there and not moving and name not in _MOVES:
            strays = [tuple(one.shape) for one in found if one.dim() and not self.is_there(one)]
            assert not strays, f"{name} mixes devices: {strays} is on the CPU"


def is_device(value: Any) -> bool:
    """Whether a value names a device."""
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in {"cpu", "cuda"})


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
