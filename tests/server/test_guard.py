"""Who may call where no key is asked for: by which names the server is called, and from which pages."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.guard import Guard
from server.settings import Settings

HERE = "192.168.1.5:8000"


async def status(called: str, origin: str | None = None, **settings: Any) -> int:
    """What a call that comes by this Host, from a page of this origin, is answered."""
    inner = Starlette(routes=[Route("/jobs", lambda _: PlainTextResponse("jobs"))])
    guard = Guard(inner, Settings.model_validate(settings), lambda: False)
    headers = {"Host": called, **({} if origin is None else {"Origin": origin})}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://unused") as client:
        return (await client.get("/jobs", headers=headers)).status_code


@pytest.mark.parametrize("host", [HERE, "[fd00::5]:8000", "localhost", "127.0.0.1:8000"])
async def test_a_server_that_others_reach_is_called_by_its_address(host: str) -> None:
    reached: dict[str, Any] = {"host": "0.0.0.0", "insecure": True}
    assert await status(host, **reached) == 200
    assert await status(host, f"http://{host}", **reached) == 200
    assert await status(host, "http://192.168.1.6", **reached) == 403, "a page of another machine"
    assert await status(host, "https://evil.example", **reached) == 403


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.5.nip.io", "1.2.3", ""])
async def test_a_name_is_not_an_address(host: str) -> None:
    assert await status(host, host="0.0.0.0", insecure=True) == 403


async def test_a_server_that_no_other_machine_reaches_is_called_by_no_address_but_loopback() -> None:
    assert await status(HERE) == 403
    assert await status("127.0.0.1:8000", f"http://{HERE}") == 403


async def test_the_public_address_is_a_name_of_the_server() -> None:
    public = {"public_url": "https://Pictures.example/r3"}
    assert await status("pictures.example", "https://pictures.example", **public) == 200
    assert await status("pictures.example") == 403
    assert await status("other.example", **public) == 403
    for url, called in (("https://bücher.example", "xn--bcher-kva.example"), ("https://r3.example./", "r3.example")):
        assert await status(called, f"https://{called}", public_url=url) == 200


async def test_where_hosts_are_named_an_address_is_one_only_if_it_is_among_them() -> None:
    named: dict[str, Any] = {"host": "0.0.0.0", "insecure": True}
    assert await status(HERE, allowed_hosts=("r3.example",), **named) == 403
    assert await status(HERE, allowed_hosts=("192.168.1.5",), **named) == 200


@pytest.mark.parametrize("url", ["http://[1:2]", "http://[1.2.3.4]/r3"])
def test_a_public_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="no address of a server"):
        Settings.model_validate({"public_url": url})
