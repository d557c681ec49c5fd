"""What the machine does at its best, measured: a large matrix product and a large copy, where and as the model runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

from r3core.bench.line import Ceiling, Line
from r3core.model.product import Product, why_not
from r3core.runtime import Runtime

_SECONDS: Final = 0.6  # for each of the two
_LEAST: Final = 5
_SIDE: Final = {"cpu": 1024, "cuda": 8192}
_COPIED_BYTES: Final = {"cpu": 2**27, "cuda": 2**31}


def measure_ceiling(runtime: Runtime) -> tuple[Ceiling, list[Line]]:
    """The best of several runs of each; the product is that of the quicker library. Every run is in the lines."""
    bagel = runtime.loaded.model.bagel
    device, dtype = bagel.device, bagel.dtype
    side, nbytes = _SIDE[device.type], _COPIED_BYTES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=product)]
    if why_not(device, dtype) is None:
        laid_out = Product.of(b, lay_out=True)
        ways.append(lambda: laid_out(a))
    products = min((_times(way, device) for way in ways), key=min)
    copies = _times(lambda: target.copy_(source), device)
    gflops = tuple(2 * side**3 / 1e9 / seconds for seconds in products)
    gbytes = tuple(2 * nbytes / 1e9 / seconds for seconds in copies)
    lines = [
        Line("ceiling", "matrix product", "GFLOP/s", gflops, {"side": side}),
        Line("ceiling", "copy, read and written", "GB/s", gbytes, {"bytes": nbytes}),
    ]
    return Ceiling(max(gflops), max(gbytes)), lines


def _times(act: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each run, the first left out: it makes what is kept."""
    times: list[float] = []
    with torch.inference_mode():
        act()
        waited_for(device)
        while len(times) < _LEAST or sum(times) < _SECONDS:
            began_s = time.perf_counter()
            act()
            waited_for(device)
            times.append(time.perf_counter() - began_s)
    return times


def waited_for(device: torch.device) -> None:
    """Return when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
