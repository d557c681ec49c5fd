"""Which server answers at an address, and with which model: for commands whose runs are gone on with later."""

from __future__ import annotations

from typing import Any, Final

import httpx

from r3client.connection import Connection
from server.misconfigured import Misconfigured

Json = dict[str, Any]
_LOOK_S: Final = 5.0


def is_ours(address: str, key: str | None) -> bool:
    """Whether an R3 server answers there, one that wants another key among them."""
    try:
        value = _get(address, key).json()
        return "models" in value or "request_id" in value
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def model_at(address: str, key: str | None, wanted: str | None) -> Json | None:
    """Name and hash of the model that answers there, of several the wanted one; None where the server does not know it
    yet. Raises Misconfigured.
    """
    info = _info(address, key)
    models = {model["name"]: model for model in info.get("models", ())}
    name = wanted or info.get("default_model") or (next(iter(models)) if len(models) == 1 else None)
    return {"name": name, "hash": models[name]["hash"]} if name in models else None


def refuse_other_model(before: Json, model: Json, folder: Any) -> None:
    """Raises Misconfigured where another model answers than has before: a folder's results are of one."""
    if before != model:
        raise Misconfigured(
            f"{folder} was made with {before['name']} ({before['hash']}), and {model['name']} ({model['hash']}) "
            "answers now; name another --out, or the server of before"
        )


def _info(address: str, key: str | None) -> Json:
    """What the server says of itself. Raises Misconfigured."""
    try:
        answer = _get(address, key)
        value = answer.json()
    except httpx.HTTPError as error:
        told = f"no answer from {address} ({str(error) or type(error).__name__})"
        raise Misconfigured(f"{told}; is the server running? name another with --url/R3_URL") from error
    except ValueError:
        value = None
    if not isinstance(value, dict) or not ("models" in value or "request_id" in value):
        raise Misconfigured(f"what answers at {address} is no R3 server; name it with --url/R3_URL")
    if not answer.is_success:
        remedy = "give a key with --key/R3_API_KEY" if answer.status_code in (401, 403) else "try again in a while"
        raise Misconfigured(f"{value.get('detail') or f'{address} answered {answer.status_code}'}; {remedy}")
    return value


def _get(address: str, key: str | None) -> httpx.Response:
    with httpx.Client(**Connection.of(address, key, _LOOK_S).options()) as http:
        return http.get("/info")
