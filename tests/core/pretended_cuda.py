"""A CUDA device where there is none: its tensors say that they are there, and lie in memory like any others.

What a GPU refuses is refused (an operation on tensors of host and device, numpy of a device's tensor), and calls in
which the host would wait for the device are counted: copies but those from pinned memory that are told not to wait, and
what is named in _READS. So code that a device alone takes is run, and what it makes the host wait for is seen, on any
machine. It shows nothing of speed, of memory or of a GPU's own kernels.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, Self
from unittest import mock

import safetensors
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA: Final = torch.device("cuda", 0)
FREE_BYTES: Final = 130 * 10**9


class OnDevice(Tensor):
    """A tensor of the device."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl


class Pinned(Tensor):
    """A tensor of the host from which the device copies by itself."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl


_TENSOR: Final[Any] = Tensor  # whose getters and setters no type knows
_DEVICE: Final = _TENSOR.device.__get__
_IS_CUDA: Final = _TENSOR.is_cuda.__get__
# What a host knows only once the device has come so far.
_READS: Final = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
    *(torch.equal, Tensor.equal, torch.allclose, Tensor.allclose, torch.nonzero, Tensor.nonzero),
    *(torch.masked_select, Tensor.masked_select, torch.unique, Tensor.unique, torch.argwhere, Tensor.argwhere),
    *(torch.is_nonzero, Tensor.is_nonzero, Tensor.__contains__, Tensor.__repr__, Tensor.__format__),
    *(torch.bincount, Tensor.bincount),
}
_OF_VALUES: Final = {torch.tensor, torch.as_tensor, torch.asarray}  # the host's, copied from where nothing is pinned
_OF_THE_OBJECT: Final = {Tensor.requires_grad_, _TENSOR.data.__set__, _TENSOR.requires_grad.__set__}


class PretendedCuda(TorchFunctionMode):
    """Counts, while it is entered, in `waits` where the host waits for all that it has asked for (file and function of
    r3core). `under_way` are the events without a time that nobody has waited for yet. With `is_lost` it fails as after
    a fault that a device cannot shake off, with `fails_to_wait` only where an event is waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.warns = self.warned = False
        self.is_lost = False
        self.fails_to_wait = False
        self.under_way: list[_Event] = []

    def wait(self) -> None:
        """The host waits for the device."""
        self.answer()
        frame = sys._getframe(1)
        while "/r3core/" not in frame.f_code.co_filename and frame.f_back is not None:
            frame = frame.f_back
        code = frame.f_code
        self.waits[f"{code.co_filename.rpartition('/')[2]} {code.co_name}"] += 1
        if self.warns:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    def answer(self, *, fails: bool = False) -> None:
        """Raise where the device is lost, or this call of it fails."""
        if self.is_lost or fails:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One operation."""
        named = dict(kwargs or {})
        if func == _DEVICE and isinstance(args[0], OnDevice):
            return CUDA
        if func == _IS_CUDA:
            return isinstance(args[0], OnDevice)
        if func in _OF_THE_OBJECT:
            return func(args[0], *map(_plain, args[1:]), **named)
        if func is Tensor.pin_memory:
            return args[0].as_subclass(Pinned)
        if func in (Tensor.to, Tensor.cpu):
            return self._moved(func, args, named)
        there = self._looked_at(func, args, named)
        if str(func) == "torch_attn._varlen_attn":
            return tree_map(_there, _flash(*map(_plain, args)))
        if (device := named.get("device")) is not None and torch.device(device).type != "meta":
            there = torch.device(device).type == "cuda"
            named["device"] = "cpu"
        given = [tree_map(_plain, x) for x in args]
        out = func(*given, **tree_map(_plain, named))
        for before, plain in zip(args, given, strict=True):
            if out is plain:
                return before  # done in place
        return tree_map(_there, out) if there else out

    def _looked_at(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        """Whether this is an operation of the device; raises what a GPU would."""
        tensors = [x for x in tree_leaves((args, named)) if isinstance(x, Tensor)]
        there = any(isinstance(x, OnDevice) for x in tensors)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            self._indexed(args[0], args[1] if isinstance(args[1], tuple) else (args[1],))
        elif func is not Tensor.copy_ and there and any(not isinstance(x, OnDevice) and x.dim() for x in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {func}")
        if func in (Tensor.copy_, Tensor.__setitem__) and isinstance(args[-1], Tensor) and args[-1].dim():
            is_put = not isinstance(args[-1], OnDevice) and isinstance(args[0], OnDevice)
            is_fetched = isinstance(args[-1], OnDevice) and not isinstance(args[0], OnDevice)
            if is_fetched or (is_put and not (isinstance(args[-1], Pinned) and named.get("non_blocking"))):
                self.wait()
        if there and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        is_where = func in (torch.where, Tensor.where) and len(args) == 1
        is_repeated = func in (torch.repeat_interleave, Tensor.repeat_interleave) and len(tensors) == 2
        if there and (func in _READS or is_where or is_repeated or func is Tensor.new_tensor):
            self.wait()
        if func in _OF_VALUES and not there and torch.device(named.get("device") or "cpu").type == "cuda":
            self.wait()
        return there

    def _indexed(self, of: Tensor, parts: tuple[Any, ...]) -> None:
        for part in parts:
            if isinstance(part, OnDevice) and not isinstance(of, OnDevice):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            if not isinstance(of, OnDevice):
                continue
            is_mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
            is_of_the_host = isinstance(part, Tensor) and not isinstance(part, OnDevice) and part.dim() > 0
            if is_mask or is_of_the_host or isinstance(part, list):
                self.wait()

    def _moved(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        """What `to` and `cpu` give."""
        tensor: Tensor = args[0]
        was = isinstance(tensor, OnDevice)
        device, dtype, at_once = _asked(args[1:], named) if func is Tensor.to else (torch.device("cpu"), None, False)
        if device is not None and device.type == "meta":
            return tensor.as_subclass(Tensor).to(device, dtype or tensor.dtype)
        there = was if device is None else device.type == "cuda"
        if was and not there and at_once:
            raise RuntimeError("the host could read this before it is there: wait for an event, or let the copy wait")
        if was != there and not (there and at_once and isinstance(tensor, Pinned)):
            self.wait()
        if was == there and dtype in (None, tensor.dtype):
            return tensor
        moved = tensor.as_subclass(Tensor).to(dtype or tensor.dtype, copy=True)
        return moved.as_subclass(OnDevice) if there else moved


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    k_starts: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """What flash attention gives for sequences laid end to end, as torch describes it: a causal row sees the keys up to
    its own, counted from the end.
    """
    scale, window, gqa, *others = rest
    assert (scale, list(window), set(others)) == (None, [-1, 0 if causal else -1], {None})
    assert q_starts.dtype == k_starts.dtype == torch.int32
    lengths = [torch.diff(starts).tolist() for starts in (q_starts, k_starts)]
    assert [max_q, max_k] == [max(own) for own in lengths]
    out = []
    split = torch.split
    for own, keys, values in zip(split(q, lengths[0]), split(k, lengths[1]), split(v, lengths[1]), strict=True):
        mask = torch.ones(len(own), len(keys), dtype=torch.bool).tril(len(keys) - len(own)) if causal else None
        query, key, value = (x.transpose(0, 1)[None] for x in (own, keys, values))
        one = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=gqa)
        out.append(one[0].transpose(0, 1))
    return torch.cat(out), torch.zeros(0), torch.zeros(0)


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Have a device `cuda:0`, of some 140 GB, for as long as this lasts."""
    pretended = PretendedCuda()

    def warn(mode: str) -> None:
        if not pretended.warned:  # as torch does, once
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        pretended.warned, pretended.warns = True, mode == "warn"

    kept = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "mem_get_info": lambda device=None: (FREE_BYTES, FREE_BYTES + 10**10),
        "current_stream": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: pretended.wait(),
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 10**9,
        "set_sync_debug_mode": warn,
        "Event": partial(_Event, pretended),
    }
    with ExitStack() as patches:
        for name, value in kept.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, value))
        patches.enter_context(mock.patch("r3core.model.weights.safe_open", _Opened))
        patches.enter_context(mock.patch.object(torch, "Generator", _Generator))
        patches.enter_context(mock.patch("torch.profiler.profile", _profile))
        patches.enter_context(mock.patch.object(torch, "autocast", _autocast))
        yield patches.enter_context(pretended)


def _asked(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None, bool]:
    if args and isinstance(args[0], Tensor):
        return args[0].device, args[0].dtype, False
    device, dtype, at_once, _ = torch._C._nn._parse_to(*args, **{k: v for k, v in named.items() if k != "copy"})
    return device, dtype, at_once


def _plain(x: Any) -> Any:
    return x.as_subclass(Tensor) if isinstance(x, OnDevice | Pinned) else x


def _there(x: Any) -> Any:
    return x.as_subclass(OnDevice) if isinstance(x, Tensor) else x


class _Event:
    """An event that has come to pass when it is recorded, where it has a time, and else when it is waited for."""

    def __init__(self, device: PretendedCuda, *, enable_timing: bool = False, blocking: bool = False) -> None:
        self._device, self._is_timed, self.blocking = device, enable_timing, blocking
        self.at_s = 0.0

    def record(self, _: object = None) -> None:
        self._device.answer()
        self.at_s = time.perf_counter()
        if not self._is_timed:
            self._device.under_way.append(self)

    def synchronize(self) -> None:
        """With it has come to pass whatever was recorded before it, of another engine too."""
        self._device.answer(fails=self._device.fails_to_wait)
        if self in self._device.under_way:
            del self._device.under_way[: self._device.under_way.index(self) + 1]

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: _Event) -> float:
        return 1000 * (other.at_s - self.at_s)


class _Opened:
    """A file of weights that are read to the device."""

    def __init__(self, path: object, framework: str, device: str) -> None:
        self._file: Any = safetensors.safe_open(path, framework=framework, device="cpu")
        self._place = _there if device.startswith("cuda") else _plain

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.__exit__(*failure)

    def get_tensor(self, name: str) -> Tensor:
        out: Tensor = self._place(self._file.get_tensor(name))
        return out


class _Generator(torch.Generator):
    """Random numbers of the host, whichever device is named."""

    def __new__(cls, device: object = None) -> Self:  # noqa: ARG004 - named by who wants them on a device
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


_REAL_PROFILE: Final = torch.profiler.profile
_REAL_AUTOCAST: Final = torch.autocast


def _autocast(device: str, dtype: torch.dtype, *, enabled: bool) -> torch.autocast:
    """The host's, wherever the tensors say that they are."""
    return _REAL_AUTOCAST("cpu", dtype=dtype, enabled=enabled)


def _profile(activities: object) -> torch.profiler.profile:
    """Looks at the host, whatever it was told to look at."""
    return _REAL_PROFILE(activities=[torch.profiler.ProfilerActivity.CPU])
