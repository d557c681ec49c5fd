"""The first loops of a process, over the checkpoint's own example prompts, before anybody waits for one.

They leave libraries set up, and the runner with the model's turns of phrase, from which it drafts later texts
(r3core.engine.drafting). Of nobody's words but the checkpoint's: how quickly a text comes must not tell what others
asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from r3core.errors import R3Error
from r3core.events import Failed, Finished
from r3core.runtime import Runtime
from r3core.types import Trajectory


def warm_up(runtime: Runtime, most_s: float, between: Callable[[], None] = lambda: None) -> str:
    """Run the example prompts together, `most_s` seconds at most; says in a line what came of it.

    An example that cannot be run is told and no more. `between` is called after every turn; what it raises ends the
    matter. Raises DeviceError.
    """
    engine, began_s = runtime.engine, time.monotonic()
    examples = runtime.description.example_prompts[: engine.room]
    finished, failed = 0, ""
    for prompt in examples:
        try:
            engine.add(prompt, Trajectory(runtime.description.request(prompt, seed=0)))
        except R3Error as error:
            failed += f"; {prompt!r}: {error}"
    while engine.has_work:
        for key, event in engine.step():
            match event:
                case Finished(trajectory=trajectory):
                    runtime.runner.remember(trajectory)
                    finished += 1
                case Failed():
                    failed += f"; {key!r}: {event.error}"
        between()
        if time.monotonic() - began_s > most_s:
            for prompt in examples:
                engine.abort(prompt)
    engine.took()  # none of it was anybody's
    return f"warm after {time.monotonic() - began_s:.1f} s: {finished} of {len(examples)} example prompts{failed}"
