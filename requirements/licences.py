"""Write docs/licences.md: every package of the locks with its licence, as pip-licenses reads it from what is installed.

What a lock names and this machine does not install is fetched for its metadata. Run by `make licences`; the exit code
is 1 where an image would hold a package of an unknown licence, or of one that the project does not ship with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from requirements.pins import SHIPPED, Pin, pins_of

PROJECT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = PROJECT / "docs" / "licences.md"
TOOL: Final = PROJECT / ".venv-sbom" / "bin" / "pip-licenses"
NOWHERE: Final = "(installed on no system that is served)"

# Licences under which a package may lie, unchanged, in an image of a project under Apache-2.0.
ALLOWED: Final = frozenset(
    {
        *(
            "0BSD",
            "Apache-2.0",
            "BSD",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "BSL-1.0",
            "CC0-1.0",
            "CNRI-Python",
            "ISC",
            "MIT",
        ),
        *("MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
    }
)
# What packages call them in words of their own, as SPDX does.
_SPDX: Final[Mapping[str, str]] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_HEAD: Final = """\
# Licences

The packages of the locks, each with its version and the licence that its own metadata names, written by
`make licences`. What an image holds may be under

> {allowed}

which all let a package be passed on unchanged beside a project under Apache-2.0. `BSD` is one that does not say with
how many clauses; MPL-2.0 asks for the source of its own files, which the packages are. Of several licences with AND or
a semicolon between them each must be one of these, of several with OR one. What is under any other (GPL, AGPL, LGPL,
SSPL, BUSL, non-commercial ones), or under none that is known, is refused by a test. What stands after WITH
allows more than the licence before it.

Not in it: what Debian's packages in the images are under (`/usr/share/doc` in the image has it), model weights, and
the CUDA packages that torch's wheels bring on Linux. Those are NVIDIA's, under its own licence: read it before you
publish an image for CUDA.

The images' packages as CycloneDX, with hashes: `make sbom` writes `build/sbom/*.cdx.json`.

| package | version | licence | in |
|---|---|---|---|
"""


def is_shippable(licence: str) -> bool:
    """Whether a package under that licence, or expression of several, may be in an image."""
    ways = [licence.replace(" OR ", ";")] if "(" in licence else licence.split(" OR ")  # nested: each must be allowed
    return any(all(_is_allowed(name) for name in re.split(r" AND |;", way)) for way in ways)


def _is_allowed(name: str) -> bool:
    plain = name.strip(" ()").partition(" WITH ")[0]  # an exception to a licence allows more
    return plain in ALLOWED


def spdx(licence: str) -> str:
    """A licence's name, or a list of them, as SPDX calls them where it is known to."""
    return "; ".join(_SPDX.get(part.strip(), part.strip()) for part in licence.split(";"))


def page(licences: Mapping[str, str]) -> str:
    """The page, where `licences` says what each package is under."""
    where: dict[Pin, list[str]] = {}
    for lock in (*SHIPPED, "lock"):
        for pin in pins_of(lock):
            where.setdefault(pin, []).append(lock)
    rows = [
        f"| {pin.name} | {pin.version} | {licences.get(pin.name, 'UNKNOWN') if pin.is_used else NOWHERE} "
        f"| {', '.join(lock for lock in locks if lock in SHIPPED) or 'development'} |"
        for pin, locks in sorted(where.items())
    ]
    return _HEAD.format(allowed=", ".join(sorted(ALLOWED))) + "\n".join(rows) + "\n"


def told(*options: str, path: str = "") -> dict[str, str]:
    """What pip-licenses finds: name to licence. Without `--python` it looks beside itself and in `path`."""
    command = [str(TOOL), "--format", "json", "--from", "mixed", "--with-system", *options]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return {re.sub(r"[-_.]+", "-", one["Name"]).lower(): spdx(one["License"]) for one in json.loads(done.stdout)}


def fetched(pins: Sequence[Pin]) -> dict[str, str]:
    """The licences of what this system does not install. Raises CalledProcessError where pip finds one nowhere."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*pip, "--target", folder, *(f"{pin.name}=={pin.version}" for pin in pins)], check=True)
        found = told(path=folder)
    return {pin.name: found[pin.name] for pin in pins if pin.name in found}


def main() -> int:
    """Write the page; the exit code."""
    known = told("--python", sys.executable)
    all_pins = {pin for lock in (*SHIPPED, "lock") for pin in pins_of(lock) if pin.is_used}
    if missing := sorted(pin for pin in all_pins if pin.name not in known):
        known |= fetched(missing)
    PAGE.write_text(page(known))
    shipped = {pin.name for lock in SHIPPED for pin in pins_of(lock) if pin.is_used}
    refused = sorted(name for name in shipped if not is_shippable(known.get(name, "UNKNOWN")))
    for name in refused:
        sys.stderr.write(f"{name} is under {known.get(name, 'UNKNOWN')}, which the project does not ship with\n")
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
