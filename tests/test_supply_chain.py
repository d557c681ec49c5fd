"""What the images hold of others' packages: listed with licences that may be shipped, and as bills of materials."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from requirements import licences, sbom
from requirements.licences import ALLOWED, NOWHERE, PAGE, is_shippable, page, spdx
from requirements.pins import SHIPPED, Pin, pins_of


def rows(text: str) -> dict[str, tuple[str, str, list[str]]]:
    """Version, licence and the locks that hold it, by package."""
    found = re.findall(r"^\| ([a-z0-9][a-z0-9.-]*) \| (\S+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    return {name: (version, licence, where.split(", ")) for name, version, licence, where in found[1:]}


def unfit(text: str) -> list[str]:
    """What of the page's packages no image may hold."""
    return [
        name
        for name, (_, licence, where) in rows(text).items()
        if where != ["development"] and licence != NOWHERE and not is_shippable(licence)
    ]


@pytest.mark.parametrize("lock", SHIPPED)
def test_the_list_names_every_package_of_an_image_at_its_locked_version(lock: str) -> None:
    told = rows(PAGE.read_text())
    for pin in pins_of(lock):
        version, licence, where = told[pin.name]
        assert version == pin.version, pin.name
        assert lock in where, pin.name
        assert (licence == NOWHERE) is not pin.is_used, pin.name


def test_the_list_names_nothing_else_but_what_development_needs() -> None:
    told = rows(PAGE.read_text())
    assert set(told) == {pin.name for lock in (*SHIPPED, "lock") for pin in pins_of(lock)}
    shipped = {pin.name for lock in SHIPPED for pin in pins_of(lock)}
    assert {name for name, (_, _, where) in told.items() if where == ["development"]} == set(told) - shipped


def test_no_image_holds_a_package_of_an_unknown_licence_or_of_one_that_cannot_be_shipped() -> None:
    assert unfit(PAGE.read_text()) == []


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("MIT", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0-only OR MIT", True),
        ("BSD; MIT", True),
        ("UNKNOWN", False),
        ("", False),
        ("GPL-3.0-or-later", False),
        ("MIT AND AGPL-3.0-only", False),
        ("(MIT OR GPL-2.0-only) AND SSPL-1.0", False),
        ("MIT; Other/Proprietary License", False),
    ],
)
def test_of_several_licences_each_must_be_allowed_unless_one_may_be_chosen(licence: str, may: bool) -> None:
    assert is_shippable(licence) is may


def test_a_licence_of_another_kind_is_seen() -> None:
    known = {name: licence for name, (_, licence, _) in rows(PAGE.read_text()).items()}
    assert page(known) == PAGE.read_text()
    assert unfit(page({**known, "redis": "GPL-3.0-only"})) == ["redis"]
    assert unfit(page({name: licence for name, licence in known.items() if name != "torch"})) == ["torch"]
    assert unfit(page({**known, "pytest": "GPL-3.0-only"})) == []  # no image holds it


def test_names_of_old_are_told_as_spdx_does() -> None:
    assert spdx("Apache Software License; BSD License") == "Apache-2.0; BSD"
    assert set(licences._SPDX.values()) <= ALLOWED


def test_a_package_for_other_systems_alone_is_used_nowhere() -> None:
    used = {pin.name: pin.is_used for pin in pins_of("api")}
    assert used["uvloop"]
    assert used["async-timeout"]  # Python before 3.11.3: Debian 12's
    assert not used["colorama"]  # Windows
    assert Pin("torch", pins_of("worker")[0].version, is_used=True) in pins_of("worker")


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make sbom` writes."""
    if not sbom.TOOL.is_file():
        pytest.skip("no cyclonedx-py in .venv-sbom; make sbom")
    folder = tmp_path_factory.mktemp("sbom")
    sbom.write(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lock", SHIPPED)
def test_a_bill_names_the_packages_of_its_lock_with_their_hashes_and_nothing_else(bills: Path, lock: str) -> None:
    bill = json.loads((bills / f"{lock}.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "r3-server"
    told = [(one["name"], one["version"], one["purl"].partition("?")[0]) for one in bill["components"]]
    assert sorted(told) == sorted((p.name, p.version, f"pkg:pypi/{p.name}@{p.version}") for p in pins_of(lock))
    for one in bill["components"]:
        hashes = [found["alg"] for place in one.get("externalReferences", []) for found in place.get("hashes", [])]
        assert hashes or one["name"] == "torch", one["name"]


@pytest.mark.slow
def test_the_same_locks_give_the_same_bills(bills: Path, tmp_path: Path) -> None:
    for again in sbom.write(tmp_path):
        assert again.read_bytes() == (bills / again.name).read_bytes()
