"""Signatures by a chain of HMACs: the published vectors of one scheme, and the whole way from variables to the wire."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ai_lib_trio import Config, open_client
from ai_lib_trio.errors import CredentialError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Auth, Chain
from ai_lib_trio.transport.credentials import CredentialStore
from ai_lib_trio.wire.auth import secrets_of, signature
from ai_lib_trio.wire.sign import KeyPair, key_pair, sign
from raw_server import Connection, chunk, raw_server

AT = 1440938160.0  # 2015-08-30T12:36:00Z
PAIR = KeyPair("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
CHAIN = Chain(
    scheme="AWS4-HMAC-SHA256",
    scope=("us-east-1", "service", "aws4_request"),
    time_header="x-amz-date",
    seed="AWS4",
    session_header="x-amz-security-token",
)
SESSIONS = {
    "get-vanilla-with-session-token": ("6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"),
    "post-sts-header-before": (
        "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRq"
        "TflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75Y"
        "U9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9K"
        "SYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
    ),
}
# The vendor's own vectors: https://github.com/awslabs/aws-c-auth/tree/main/tests/aws-signing-test-suite/v4, 2026-11-22
# (name, method, path and query, headers, body, signature). Where they send a hash of the body, so do we.
VECTORS: list[Any] = [
    (
        "get-header-key-duplicate",
        "GET",
        "/",
        [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        "",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "get-header-value-multiline",
        "GET",
        "/",
        [("My-Header1", "value1\n  value2\n     value3")],
        "",
        "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd",
    ),
    (
        "get-header-value-order",
        "GET",
        "/",
        [("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")],
        "",
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        "",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "get-space-normalized",
        "GET",
        "/example space/",
        [],
        "",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    (
        "get-space-unnormalized",
        "GET",
        "/example space/",
        [],
        "",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    (
        "get-unreserved",
        "GET",
        "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        [],
        "",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    ("get-utf8", "GET", "/ሴ", [], "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    ("get-vanilla", "GET", "/", [], "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (
        "get-vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [],
        "",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    ("get-vanilla-query", "GET", "/", [], "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (
        "get-vanilla-query-order-encoded",
        "GET",
        "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
        [],
        "",
        "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
    ),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [],
        "",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-vanilla-query-unreserved",
        "GET",
        "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        [],
        "",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    (
        "get-vanilla-utf8-query",
        "GET",
        "/?ሴ=bar",
        [],
        "",
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    (
        "get-vanilla-with-session-token",
        "GET",
        "/",
        [],
        "",
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
    ),
    ("post-header-key-case", "POST", "/", [], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "post-header-key-sort",
        "POST",
        "/",
        [("My-Header1", "value1")],
        "",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-header-value-case",
        "POST",
        "/",
        [("My-Header1", "VALUE1")],
        "",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    ("post-sts-header-before", "POST", "/", [], "", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
    ("post-vanilla", "POST", "/", [], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "post-vanilla-empty-query-value",
        "POST",
        "/?Param1=value1",
        [],
        "",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-vanilla-query",
        "POST",
        "/?Param1=value1",
        [],
        "",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "13")],
        "Param1=value1",
        "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
    ),
    (
        "post-x-www-form-urlencoded-parameters",
        "POST",
        "/",
        [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), ("Content-Length", "13")],
        "Param1=value1",
        "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
    ),
]
HASHED = ("post-x-www-form-urlencoded", "post-x-www-form-urlencoded-parameters")


@pytest.mark.parametrize(
    ("name", "method", "path", "headers", "body", "wanted"), VECTORS, ids=[vector[0] for vector in VECTORS]
)
def test_a_published_request_has_its_published_signature(
    name: str, method: str, path: str, headers: list[tuple[str, str]], body: str, wanted: str
) -> None:
    chain = CHAIN
    if name in HASHED:
        chain = Chain(
            **{key: getattr(CHAIN, key) for key in CHAIN.__struct_fields__} | {"body_header": "x-amz-content-sha256"}
        )
    pair = msgspec.structs.replace(PAIR, session=SESSIONS.get(name))
    url = "https://example.amazonaws.com" + path
    found = sign(chain, pair, method=method, url=url, headers=headers, body=body.encode(), at=AT)
    header, value = found[-1]
    assert header == "authorization"
    assert value.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, Signed")
    assert value.endswith("Signature=" + wanted)
    assert ("x-amz-date", "20150830T123600Z") in found


def test_what_may_change_on_the_way_is_not_signed_and_what_we_add_replaces_the_callers() -> None:
    given = [("user-agent", "a"), ("accept-encoding", "gzip"), ("X-Amz-Date", "yesterday"), ("host", "elsewhere")]
    plain = sign(CHAIN, PAIR, method="POST", url="https://h.example/p", headers=[], body=b"{}", at=AT)
    assert sign(CHAIN, PAIR, method="POST", url="https://h.example/p", headers=given, body=b"{}", at=AT) == plain
    auth = Auth(type="hmac_chain", chain=CHAIN)
    arguments: Any = {"method": "POST", "url": "https://h.example/p", "body": b"{}", "at": AT}
    headers = signature(auth, "AKIDEXAMPLE:secret", headers=[*given, ("Authorization", "mine")], **arguments)
    assert [name for name, _ in headers if name.lower() in ("authorization", "x-amz-date")] == [
        "x-amz-date",
        "authorization",
    ]
    assert signature(Auth(type="bearer"), "k", headers=given, **arguments) is given


def test_a_key_is_one_text_with_its_parts_between_colons() -> None:
    assert key_pair(" id:secret ") == KeyPair("id", "secret")
    assert key_pair("id:secret:to:ken") == KeyPair("id", "secret", "to:ken")
    assert "secret" not in repr(key_pair("id:secret"))
    for text in ("", "id", "id:", ":secret", "id:s\nx", "id:ß"):
        with pytest.raises(CredentialError) as caught:
            key_pair(text)
        assert caught.value.kind == "no_credential"
    assert secrets_of(Auth(type="hmac_chain", chain=CHAIN), "id:secret:token") == ("id:secret:token", "secret", "token")
    assert secrets_of(Auth(type="bearer"), "k:x") == ("k:x",)


def test_a_scope_with_a_part_that_is_not_filled_is_refused() -> None:
    chain = Chain(scheme="S", scope=("${REGION}", "s"), time_header="t")
    with pytest.raises(CredentialError, match="REGION"):
        sign(chain, PAIR, method="GET", url="https://h.example/", headers=[], body=b"", at=AT)


PROVIDER = """
id: signed
protocol_version: "2.0"
endpoint:
  base_url: https://models.${SIGNED_REGION}.example
  variables: {SIGNED_REGION: SIGNED_REGION}
  auth:
    type: bearer
    token_env: SIGNED_TOKEN
    otherwise:
      type: hmac_chain
      scheme: AWS4-HMAC-SHA256
      seed: AWS4
      scope: ["${SIGNED_REGION}", models, aws4_request]
      time_header: x-amz-date
      session_header: x-amz-security-token
      key_id_env: SIGNED_ID
      token_env: SIGNED_SECRET
      session_env: SIGNED_SESSION
api_families:
  chat: {dialect: converse}
"""


def manifest_file(folder: Any, text: str = PROVIDER) -> Any:
    path = folder / "signed.yaml"
    path.write_text(text, "utf-8")
    return path


PAIR_SET = {"SIGNED_ID": "AKIDEXAMPLE", "SIGNED_SECRET": "s3cr3t"}


@pytest.mark.parametrize(
    ("environ", "kind", "secret", "names"),
    [
        ({"SIGNED_TOKEN": "t", **PAIR_SET}, "bearer", "t", ("SIGNED_TOKEN",)),
        (PAIR_SET, "hmac_chain", "AKIDEXAMPLE:s3cr3t", ("SIGNED_ID", "SIGNED_SECRET")),
        (
            {**PAIR_SET, "SIGNED_SESSION": "tok"},
            "hmac_chain",
            "AKIDEXAMPLE:s3cr3t:tok",
            ("SIGNED_ID", "SIGNED_SECRET", "SIGNED_SESSION"),
        ),
        ({"SIGNED_ID": "AKIDEXAMPLE", "SIGNED_API_KEY": "k"}, "bearer", "k", ("SIGNED_API_KEY",)),
        ({"SIGNED_API_KEY": "id:sec"}, "hmac_chain", "id:sec", ("SIGNED_API_KEY",)),
    ],
)
def test_the_first_way_that_has_its_key_is_taken(
    tmp_path: Any, environ: dict[str, str], kind: str, secret: str, names: tuple[str, ...]
) -> None:
    manifest = Catalog.open(manifest_file(tmp_path), environ={}).provider("signed")
    found = CredentialStore(environ, keyring=False).find_nowait(manifest)
    assert found is not None
    assert found.auth is not None
    assert (found.auth.type, found.secret.reveal(), found.names) == (kind, secret, names)


async def test_where_no_way_has_a_key_all_are_named(tmp_path: Any) -> None:
    manifest = Catalog.open(manifest_file(tmp_path), environ={}).provider("signed")
    with pytest.raises(CredentialError, match="SIGNED_TOKEN, SIGNED_ID with SIGNED_SECRET, SIGNED_API_KEY"):
        await CredentialStore({}, keyring=False).find(manifest)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"${SIGNED_REGION}", models', '"${OTHER}", models', "endpoint.variables"),
        ('"${SIGNED_REGION}", models', '"a/b", models', "a word"),
        ("      time_header: x-amz-date\n", "", "time_header"),
        ('      scope: ["${SIGNED_REGION}", models, aws4_request]\n', "", "scope"),
        ("type: bearer", "type: bearer\n    key_id_env: X", "hmac_chain only"),
    ],
)
def test_what_a_chain_lacks_is_said_at_load(tmp_path: Any, old: str, new: str, said: str) -> None:
    assert old in PROVIDER
    with pytest.raises(ManifestError, match=said):
        Catalog.open(manifest_file(tmp_path, PROVIDER.replace(old, new)), environ={}).provider("signed")


def test_a_manifest_from_elsewhere_gets_no_part_of_a_bundled_key(tmp_path: Any) -> None:
    owners = Catalog.open(environ={}).own_keys().owners
    assert owners["AWS_SECRET_ACCESS_KEY"] == owners["AWS_ACCESS_KEY_ID"] == owners["AWS_SESSION_TOKEN"] == {"bedrock"}


async def test_a_call_is_signed_for_its_time_and_its_region(tmp_path: Any) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []
    reply = json.dumps(
        {"output": {"message": {"role": "assistant", "content": [{"text": "Hi."}]}}, "stopReason": "end_turn"}
    ).encode()

    async def serve(connection: Connection) -> None:
        while (asked := await connection.request()) is not None:
            seen.append(asked)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            await connection.send(head + chunk(reply) + b"0\r\n\r\n")

    async with raw_server(serve) as server:
        environ = {**PAIR_SET, "SIGNED_SESSION": "tok", "SIGNED_REGION": "eu-west-3"}
        config = Config(base_urls={"signed": server.url}, environ=environ, wall_time=lambda: AT)
        async with open_client("signed/m:0", manifests=manifest_file(tmp_path), config=config) as client:
            assert (await client.chat().user("Hi").execute()).content == "Hi."
    headers, body = seen[0]
    assert headers[":line"] == "POST /model/m%3A0/converse HTTP/1.1"
    chain = Chain(
        **{key: getattr(CHAIN, key) for key in CHAIN.__struct_fields__}
        | {"scope": ("eu-west-3", "models", "aws4_request")}
    )
    wanted = sign(
        chain,
        KeyPair("AKIDEXAMPLE", "s3cr3t", "tok"),
        method="POST",
        url=server.url + "/model/m%3A0/converse",
        headers=[("content-type", "application/json")],
        body=body,
        at=AT,
    )
    for name, value in wanted:
        assert headers[name] == value
    assert "s3cr3t" not in str(headers)
