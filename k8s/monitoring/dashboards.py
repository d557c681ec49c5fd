"""The two Grafana dashboards as files: the fleet, and the model and its loop.

python -m k8s.monitoring.dashboards             write dashboards/*.json anew
python -m k8s.monitoring.dashboards --check     exit with 1 where a file is not what is written here
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from k8s.monitoring.fleet import FLEET
from k8s.monitoring.loop import LOOP

FOLDER: Final = Path(__file__).with_name("dashboards")


def texts() -> dict[Path, str]:
    """What each file is to hold."""
    return {
        FOLDER / f"{one.uid}.json": json.dumps(one.to_json(), indent=2, ensure_ascii=False) + "\n"
        for one in (FLEET, LOOP)
    }


def main(arguments: list[str]) -> int:
    """Write or check; the exit code of the process."""
    if arguments == ["--check"]:
        stale = [path for path, text in texts().items() if not path.is_file() or path.read_text() != text]
        for path in stale:
            print(f"{path} is not what k8s/monitoring says; write it anew with `make dashboards`", file=sys.stderr)
        return int(bool(stale))
    for path, text in texts().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
