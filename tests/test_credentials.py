"""Keys: where they are looked for, and that they are never shown."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import threading
import traceback
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ai_lib_trio.errors import CredentialError
from ai_lib_trio.protocol.manifest import Auth, AuthType, Endpoint, Manifest
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.transport.credentials import Credential, CredentialStore, Secret, search_for

KEY = "sk-very-secret-value"


def manifest(
    *, token_env: str | None = "ACME_TOKEN", kind: AuthType = "bearer", shadowed: tuple[str, ...] = ()
) -> Manifest:
    return Manifest(
        id="ac-me",
        protocol_version="2.0",
        name="Acme",
        endpoint=Endpoint("https://api.acme.example", auth=Auth(type=kind, token_env=token_env, shadowed_env=shadowed)),
        families={},
        default_family="",
        where=Where(),
    )


def store(environ: dict[str, str] | None = None, keyring: Any = False) -> CredentialStore:
    return CredentialStore(environ or {}, keyring=keyring)


async def found(of: CredentialStore, *, explicit: str | None = None, **options: Any) -> tuple[str, str, str]:
    credential = await of.find(manifest(**options), explicit=explicit)
    assert credential is not None
    return credential.source, credential.name, credential.secret.reveal()


async def test_the_callers_key_comes_first() -> None:
    environ = {"ACME_TOKEN": "env", "AC_ME_API_KEY": "usual"}
    assert await found(store(environ), explicit=KEY) == ("explicit", "explicit", KEY)


async def test_the_variable_that_the_manifest_names_comes_before_the_usual_one() -> None:
    environ = {"ACME_TOKEN": "env", "AC_ME_API_KEY": "usual"}
    assert await found(store(environ)) == ("manifest_env", "ACME_TOKEN", "env")
    assert await found(store({"AC_ME_API_KEY": "usual"})) == ("conventional_env", "AC_ME_API_KEY", "usual")
    assert await found(store(environ), token_env=None) == ("conventional_env", "AC_ME_API_KEY", "usual")


async def test_blank_counts_as_unset_and_values_are_trimmed() -> None:
    environ = {"ACME_TOKEN": "  \n", "AC_ME_API_KEY": f" {KEY}\n"}
    assert await found(store(environ), explicit=" ") == ("conventional_env", "AC_ME_API_KEY", KEY)


async def test_no_key_says_everywhere_it_looked_and_no_value() -> None:
    with pytest.raises(CredentialError) as caught:
        await store({"OTHER": KEY, "ACME_TOKEN": " "}, keyring=lambda service, user: None).find(manifest())
    error = caught.value
    assert (error.kind, error.code, error.provider) == ("no_credential", "E1002", "ac-me")
    for place in ("api_key=", "ACME_TOKEN", "AC_ME_API_KEY", "keyring (ai-protocol, ai-lib)"):
        assert place in error.message
    assert KEY not in str(error)


async def test_a_keyring_that_was_not_asked_is_not_listed() -> None:
    with pytest.raises(CredentialError) as caught:
        await store().find(manifest())
    assert "keyring" not in caught.value.message


async def test_a_provider_without_auth_needs_no_key() -> None:
    def never(service: str, user: str) -> str | None:
        raise AssertionError("the keyring was asked")

    assert await store({"ACME_TOKEN": KEY}, keyring=never).find(manifest(kind="none")) is None


async def test_the_variable_of_a_shadowed_block_never_counts_and_is_named() -> None:
    environ = {"ACME_LEGACY": KEY}
    with pytest.raises(CredentialError, match="ACME_LEGACY is named by an auth block beside") as caught:
        await store(environ).find(manifest(shadowed=("ACME_LEGACY",)))
    assert KEY not in str(caught.value)
    search = search_for(manifest(shadowed=("AC_ME_API_KEY",)))
    assert (search.required, search.conventional) == (("ACME_TOKEN",), ())
    assert len(search.diagnostics) == 1


async def test_the_keyring_is_asked_by_both_service_names_in_a_thread_of_its_own() -> None:
    asked: list[tuple[str, str, bool]] = []
    main = threading.current_thread()

    def lookup(service: str, user: str) -> str | None:
        asked.append((service, user, threading.current_thread() is main))
        return KEY if service == "ai-lib" else None

    assert await found(store(keyring=lookup)) == ("keyring", "ai-lib", KEY)
    assert asked == [("ai-protocol", "ac-me", False), ("ai-lib", "ac-me", False)]


async def test_the_keyring_is_asked_once_for_a_hundred_callers() -> None:
    asked: list[str] = []

    def lookup(service: str, user: str) -> str | None:
        asked.append(service)
        return KEY

    of = store(keyring=lookup)
    results: list[str] = []

    async def one() -> None:
        results.append((await found(of))[2])

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert results == [KEY] * 100
    assert asked == ["ai-protocol"]


async def test_a_keyring_without_the_key_is_asked_once_too() -> None:
    asked: list[str] = []

    def lookup(service: str, user: str) -> str | None:
        asked.append(service)
        return None

    of = store(keyring=lookup)
    for _ in range(2):
        with pytest.raises(CredentialError):
            await of.find(manifest())
    assert asked == ["ai-protocol", "ai-lib"]


async def test_a_caller_who_gives_up_leaves_the_question_to_the_next() -> None:
    may_answer = threading.Event()
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def lookup(service: str, user: str) -> str | None:
        begun.release()
        may_answer.wait(10)
        ended.release()
        return KEY

    of = store(keyring=lookup)
    answers: list[str] = []

    async def patient() -> None:
        answers.append((await found(of))[2])

    scope = trio.CancelScope()

    async def hasty() -> None:
        with scope:
            await of.find(manifest())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hasty)
        await trio.to_thread.run_sync(begun.acquire)
        nursery.start_soon(patient)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        may_answer.set()
    assert answers == [KEY]
    # The abandoned thread ends by itself; it must not be left to the next test.
    for _ in range(2):
        await trio.to_thread.run_sync(ended.acquire)


async def test_an_error_of_the_lookup_reaches_every_caller_and_blocks_none() -> None:
    def lookup(service: str, user: str) -> str | None:
        raise RuntimeError("locked")

    of = store(keyring=lookup)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="locked"):
            await of.find(manifest())


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret(KEY)
    credential = Credential("acme", "explicit", "explicit", secret)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>40}", "%s" % secret, repr([secret])]  # noqa: UP031
    shown += [repr(credential), str(vars(type(secret))), str(dir(secret))]
    record = logging.LogRecord("x", logging.INFO, "f", 1, "key %s", (secret,), None)
    shown.append(record.getMessage())
    try:
        raise ValueError(secret)
    except ValueError:
        shown.append(traceback.format_exc())
    assert not [text for text in shown if KEY in text]


@pytest.mark.parametrize("through", [pickle.dumps, json.dumps, msgspec.json.encode, msgspec.msgpack.encode])
def test_a_secret_cannot_be_written_out(through: Any) -> None:
    with pytest.raises(TypeError) as caught:
        through(Secret(KEY))
    assert KEY not in str(caught.value)


def test_secrets_compare_by_value_and_copy_as_themselves() -> None:
    secret = Secret(KEY)
    assert secret == Secret(KEY)
    assert secret != Secret("other")
    assert secret != KEY
    assert hash(secret) == hash(Secret(KEY))
    assert copy.deepcopy(secret) is secret
    assert copy.copy(secret) is secret


def test_a_store_shows_no_key() -> None:
    assert KEY not in repr(store({"ACME_TOKEN": KEY}))
