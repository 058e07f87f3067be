"""One chat completion as people write it: httpx with a transport that bears hundreds of calls at once."""

from __future__ import annotations

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from streams.prompts import prompt

_TIMEOUT_S = 30.0


def open_client() -> httpx.AsyncClient:
    """Return a client that takes as many calls at once as it is given."""
    # A connector without a limit: the transport's own would stop at 100 connections.
    return httpx.AsyncClient(
        timeout=_TIMEOUT_S,
        transport=AiohttpTransport(
            client=lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        ),
    )


async def ask(client: httpx.AsyncClient, url: str, text: str, *, request_id: str) -> str:
    """Ask what the shipped chat handler asks about a conversation's first message; return the answer."""
    messages = [{"role": "system", "content": prompt("support_chat")}, {"role": "user", "content": text}]
    body = {"model": "small", "messages": messages, "max_tokens": 512}
    response = await client.post(url, json=body, headers={"X-Client-Request-Id": request_id})
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])
