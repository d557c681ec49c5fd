"""alerts.yaml as the PrometheusRule that prometheus-operator reads: kustomize cannot wrap a file.

Run by `make dashboards`; with --check nothing is written, and the exit code is 1 where the file is not up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FILE: Final = HERE / "prometheusrule.yaml"
HEAD: Final = """\
# Written by `make dashboards` from alerts.yaml; not by hand.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: r3
  namespace: r3
  labels: {app.kubernetes.io/name: r3}
spec:
"""


def wrapped(rules: str) -> str:
    """The document around the rules."""
    return HEAD + "".join(f"  {line}".rstrip() + "\n" for line in rules.splitlines())


def main() -> int:
    """Write the file, or say whether it is up to date."""
    text = wrapped((HERE / "alerts.yaml").read_text())
    if "--check" in sys.argv[1:]:
        if FILE.read_text() == text:
            return 0
        sys.stderr.write(f"{FILE.name} is not what alerts.yaml says; run `make dashboards`\n")
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
