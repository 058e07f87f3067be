"""The client that our event loops use on Redis."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sluicegate.errors import ConfigurationError, StateUnavailableError
from sluicegate.records import Origin
from sluicegate.rights import Role, account
from sluicegate.settings import RedisSettings, Settings, load_settings
from sluicegate.state.api import Copy, EventRef, Run
from sluicegate.state.connecting import connect, connect_sync
from sluicegate.state.redis_state import RedisState
from tests.fixtures.certificates import Authority, OpensslUnavailableError
from tests.fixtures.secure_redis import SecureRedis
from tests.integration.secure_stand import password_of, redis_lines

_MOST_STEPS = 40


async def test_a_cancellation_is_heard_at_every_moment_of_a_command(redis_url: str) -> None:
    """Whatever step of a command the event loop is at, who cancels the caller ends it."""
    client = connect(redis_url, max_connections=1, timeout_s=2.0)

    async def ask_and_stay() -> None:
        async with asyncio.timeout(5):
            await client.ping()
        await asyncio.Event().wait()

    deaf: list[int] = []
    for steps in range(_MOST_STEPS):
        asking = asyncio.ensure_future(ask_and_stay())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=1)
        if not done:
            deaf.append(steps)
            asking.cancel()
            await asyncio.wait({asking})
    assert not deaf
    assert await client.ping()
    await client.aclose()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[SecureRedis, Authority, Settings]]:
    """Return a Redis with TLS that lets in our shipped users alone, and who signed its certificate."""
    try:
        authority = Authority(tmp_path)
    except OpensslUnavailableError:
        pytest.skip("openssl, which makes the certificates, is not installed")
    settings = load_settings(None, {})
    with SecureRedis(tmp_path, authority, redis_lines(settings)) as server:
        yield server, authority, settings


def entrance(
    server: SecureRedis, authority: Authority, tmp_path: Path, role: Role, **changed: Any
) -> RedisSettings:
    """Return `[redis]` as a role's process has it; its password file is of its own."""
    pair = authority.client(f"client-{role}")
    password = tmp_path / f"{role}-password"
    password.write_text(password_of(role))
    keys: dict[str, Any] = {
        "url": server.url,
        "username": f"sluicegate-{role}",
        "password_file": password,
        "ca_file": authority.certificate,
        "certificate_file": pair.certificate,
        "key_file": pair.key,
    }
    return RedisSettings(**(keys | changed))


async def says(settings: RedisSettings) -> str:
    """Return `PONG`, or the name of the error that there is instead of it; never longer than 5 s."""
    client = connect(settings, max_connections=1, timeout_s=2.0)
    try:
        async with asyncio.timeout(5):
            return "PONG" if await client.ping() else "nothing"
    except redis.RedisError as exc:
        return type(exc).__name__
    finally:
        await client.aclose()


async def test_only_who_is_known_gets_in_and_only_where_it_is_expected(
    locked: tuple[SecureRedis, Authority, Settings], tmp_path: Path
) -> None:
    """Both sides prove who they are: password, certificate and authority are needed, each of them."""
    server, authority, _ = locked
    good = entrance(server, authority, tmp_path, Role.WORKER)
    stranger = Authority(tmp_path / "stranger", name="stranger")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")

    assert await says(good) == "PONG"
    with connect_sync(good, timeout_s=2.0) as client:
        assert client.ping()
    with pytest.raises(redis.ConnectionError):
        connect_sync(good.model_copy(update={"ca_file": stranger.certificate}), timeout_s=2.0).ping()
    assert await says(good.model_copy(update={"ca_file": stranger.certificate})) == "ConnectionError"
    assert await says(good.model_copy(update={"ca_file": None})) == "ConnectionError"
    assert await says(good.model_copy(update={"password_file": wrong})) == "AuthenticationError"
    anonymous = good.model_copy(update={"certificate_file": None, "key_file": None})
    assert await says(anonymous) == "ConnectionError"


async def test_a_new_password_is_taken_from_the_file_without_a_restart(
    locked: tuple[SecureRedis, Authority, Settings], tmp_path: Path
) -> None:
    """A client that is open goes on, and its next connection logs in with what the file has then."""
    server, authority, settings = locked
    good = entrance(server, authority, tmp_path, Role.WORKER)
    assert good.password_file is not None
    client = connect(good, max_connections=1, timeout_s=2.0)
    await client.ping()

    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", account(settings, Role.WORKER), "resetpass", ">rotated")
    good.password_file.write_text("rotated\n")
    await client.connection_pool.disconnect()

    assert await client.ping()
    good.password_file.write_text("")  # a rotation under way: the last one is tried
    await client.connection_pool.disconnect()
    assert await client.ping()
    await client.aclose()


async def test_an_account_reaches_its_own_keys_alone_and_needs_each_command(
    locked: tuple[SecureRedis, Authority, Settings], tmp_path: Path
) -> None:
    """A worker runs its scripts, sees no other deployment, and stops without one command of theirs."""
    server, authority, settings = locked
    client = connect(entrance(server, authority, tmp_path, Role.WORKER), max_connections=2, timeout_s=2.0)
    ref = EventRef(
        stream="support-chat",
        origin=Origin(topic="support-chat", partition=0, offset=1),
        key="c-1",
        identity="i",
        ordered=True,
    )

    def state(group: str) -> RedisState:
        return RedisState(client, group=group, new_gen=lambda: "gen")

    assert isinstance((await state("sluicegate").take(ref, Copy())).verdict, Run)
    with pytest.raises(StateUnavailableError, match="NoPermission"):
        await state("other").take(ref, Copy())
    for command in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("SCAN", "0"), ("GET", "lim:{x}")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", account(settings, Role.WORKER), "-hmget")
    with pytest.raises(StateUnavailableError):
        await state("sluicegate").take(ref, Copy())
    await client.aclose()


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_of_no_use_is_told_without_its_name_or_content(
    tmp_path: Path, content: bytes | None
) -> None:
    """Who wrote the password where the file's name belongs must not find it in a log."""
    path = tmp_path / "canary-password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        connect(RedisSettings(url="redis://h", password_file=path), max_connections=1, timeout_s=1.0)
    assert "redis.password_file" in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_certificates_of_no_use_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    """The setting and the file are named where the client's own error would name neither."""
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    wrong: tuple[dict[str, Any], ...] = (
        {"ca_file": nothing},
        {"certificate_file": nothing, "key_file": nothing},
    )
    for keys in wrong:
        with pytest.raises(ConfigurationError, match=r"redis\.c.*nothing\.pem"):
            connect(RedisSettings(url="rediss://h", **keys), max_connections=1, timeout_s=1.0)
