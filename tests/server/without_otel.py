"""`r3` where the extra `otel` is not installed: `python -m tests.server.without_otel worker`."""

from __future__ import annotations

import sys


class _Gate:
    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):  # the API's package comes with FastAPI
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, _Gate)
    from server.cli import main

    main()
