"""Where a key may go. Each test is an attack or a thing that must go on working beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import CallerError, CredentialError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Auth, Endpoint, Manifest, Provenance
from ai_lib_trio.protocol.trust import (
    KeySource,
    OwnKeys,
    check_credential,
    check_fetched,
    check_variables,
    conventional_env,
    fill,
    origin_of,
    placeholders,
)
from ai_lib_trio.protocol.where import Where


def manifest(
    ident: str = "acme",
    base_url: str = "https://api.acme.example/v1",
    *,
    origin: Provenance = "bundled",
    token_env: str | None = "ACME_API_KEY",
    aliases: tuple[str, ...] = (),
    variables: dict[str, str] | None = None,
) -> Manifest:
    return Manifest(
        id=ident,
        protocol_version="2.0",
        name=ident,
        aliases=aliases,
        endpoint=Endpoint(base_url, variables=variables or {}, auth=Auth(type="bearer", token_env=token_env)),
        families={},
        default_family="",
        origin=origin,
        where=Where("m.yaml"),
    )


OWN = OwnKeys.of(
    {
        "acme": manifest(aliases=("apex",)),
        "beta": manifest("beta", "https://beta.example", token_env="BETA_TOKEN"),
    }
)


def check(
    of: Manifest,
    target: str,
    *,
    source: KeySource = "manifest_env",
    name: str = "ACME_API_KEY",
    base_url: str | None = None,
    own: OwnKeys | None = OWN,
) -> None:
    check_credential(
        of,
        source=source,
        name=name,
        target=origin_of(target),
        declared=origin_of(of.endpoint.base_url),
        base_url=origin_of(base_url) if base_url else None,
        own=own,
    )


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CredentialError) as caught:
        check(*args, **kwargs)
    assert (caught.value.kind, caught.value.code) == ("credential_not_bound", "E1002")
    return caught.value.message


def test_a_bundled_providers_key_goes_to_its_own_host() -> None:
    check(manifest(), "https://api.acme.example/v1/chat", own=None)
    check(manifest(), "https://API.acme.example:443/", own=None)


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/v1",
        "https://api.acme.example.evil.example/v1",
        "https://api.acme.example:8443/v1",
        "http://api.acme.example/v1",
        "http://localhost/v1",
    ],
)
def test_a_key_does_not_go_to_another_scheme_host_or_port(target: str) -> None:
    refused(manifest(), target)
    refused(manifest(), target, source="explicit", name="explicit")


def test_a_base_url_of_the_caller_allows_the_providers_own_key_there_and_only_there() -> None:
    check(manifest(), "https://proxy.example/v1", base_url="https://proxy.example")
    check(manifest(), "https://api.acme.example/v1", base_url="https://proxy.example")
    refused(manifest(), "https://other.example/v1", base_url="https://proxy.example")


def test_plain_http_carries_a_key_to_this_machine_only() -> None:
    for host in ("127.0.0.1:9", "localhost:9", "[::1]:9", "127.3.2.1", "a.localhost"):
        check(manifest(), f"http://{host}/", base_url=f"http://{host}")
    for host in (
        "10.0.0.1",
        "127.0.0.\u0661",
        "proxy.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "0.0.0.0",
    ):
        assert "plain http" in refused(manifest(), f"http://{host}/", base_url=f"http://{host}")
        assert "plain http" in refused(
            manifest(), f"http://{host}/", base_url=f"http://{host}", source="explicit", name="explicit"
        )


def test_a_given_manifest_with_a_known_name_and_another_host_gets_no_known_key() -> None:
    fake = manifest(base_url="https://evil.example/v1", origin="given")
    assert "belongs to acme" in refused(fake, "https://evil.example/v1")
    refused(fake, "https://evil.example/v1", source="conventional_env")
    refused(fake, "https://evil.example/v1", source="keyring", name="ai-protocol")


def test_a_given_manifest_with_another_name_gets_no_known_key() -> None:
    fake = manifest("mine", "https://evil.example/v1", origin="given", token_env="BETA_TOKEN")
    assert "belongs to beta" in refused(fake, "https://evil.example/v1", name="BETA_TOKEN")
    refused(fake, "https://evil.example/v1", name="BETA_API_KEY")
    # A base URL of the caller's allows the provider's own key, and this one is another's.
    refused(fake, "https://proxy.example/v1", name="BETA_TOKEN", base_url="https://proxy.example")


def test_a_given_manifest_with_an_alias_of_a_known_one_gets_no_known_key() -> None:
    fake = manifest("apex", "https://evil.example/v1", origin="given", token_env=None)
    refused(fake, "https://evil.example/v1", source="conventional_env", name="APEX_API_KEY")
    refused(fake, "https://evil.example/v1", source="keyring", name="ai-lib")


def test_a_given_manifest_may_have_a_known_key_for_the_known_host() -> None:
    check(manifest(origin="given"), "https://api.acme.example/v1")
    check(manifest(origin="given"), "https://proxy.example/", base_url="https://proxy.example")


def test_a_given_manifest_may_have_a_key_of_its_own_or_one_that_the_caller_passes() -> None:
    mine = manifest("mine", "https://mine.example", origin="given", token_env="SOME_TOKEN")
    check(mine, "https://mine.example/", name="SOME_TOKEN")
    check(manifest(base_url="https://evil.example", origin="given"), "https://evil.example", source="explicit")


def test_without_the_bundled_list_nothing_from_elsewhere_gets_a_key() -> None:
    mine = manifest("mine", "https://mine.example", origin="given", token_env="SOME_TOKEN")
    refused(mine, "https://mine.example/", name="SOME_TOKEN", own=None)


def test_a_fetched_manifest_uses_its_conventional_variable_and_nothing_else() -> None:
    far = manifest("far", "https://far.example", origin="fetched", token_env="FAR_API_KEY")
    check_fetched(far, OWN)
    check(far, "https://far.example/", name="FAR_API_KEY")
    refused(far, "https://far.example/", name="HOME")
    refused(far, "https://far.example/", name="BETA_TOKEN")


@pytest.mark.parametrize(
    "fake",
    [
        manifest(origin="fetched"),
        manifest("apex", "https://far.example", origin="fetched", token_env=None),
        manifest("far", "https://far.example", origin="fetched", token_env=None, aliases=("beta",)),
        manifest("far", "https://far.example", origin="fetched", token_env="ACME_API_KEY"),
        manifest("far", "https://far.example", origin="fetched", token_env="AWS_SECRET_ACCESS_KEY"),
        manifest("far", "https://api.acme.example/v9", origin="fetched", token_env=None),
        manifest("far", "http://api.acme.example:443/v9", origin="fetched", token_env=None),
        manifest("far", "https://{h}.far.example", origin="fetched", token_env=None, variables={"h": "HOME"}),
        manifest("far", "https://{h}.far.example", origin="fetched", token_env=None, variables={"h": "FAR_API_KEY"}),
    ],
)
def test_a_fetched_manifest_cannot_be_or_point_at_what_is_bundled(fake: Manifest) -> None:
    with pytest.raises(ManifestError):
        check_fetched(fake, OWN)


def test_a_fetched_manifest_cannot_collide_with_a_variable_of_another_spelling() -> None:
    own = OwnKeys.of({"two-words": manifest("two-words", "https://two.example", token_env=None)})
    with pytest.raises(ManifestError, match="resolves"):
        check_fetched(manifest("two_words", "https://far.example", origin="fetched", token_env=None), own)


def test_a_key_cannot_leave_as_a_part_of_a_host_name() -> None:
    url = "https://{x}.evil.example"
    for variable in ("ACME_API_KEY", "BETA_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
        with pytest.raises(ManifestError, match="holds no key"):
            check_variables(manifest("mine", url, origin="given", variables={"x": variable}), OWN)
    check_variables(manifest("mine", url, origin="given", variables={"x": "MY_REGION"}), OWN)
    far = manifest("far", url, origin="fetched", token_env=None, variables={"x": "FAR_REGION"})
    check_variables(far, OWN)


def test_the_catalogue_refuses_such_a_manifest_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        'id: mine\nprotocol_version: "2.0"\nendpoint:\n  base_url: https://{x}.evil.example\n'
        "  variables:\n    x: SOME_SECRET\napi_families: {}\n",
        encoding="utf-8",
    )
    with pytest.raises(ManifestError, match=r"mine\.yaml:6 at endpoint\.variables\.x: expected one that holds no key"):
        Catalog.open(tmp_path, {}).provider("mine")


def test_no_bundled_manifest_is_refused_by_its_own_rules() -> None:
    catalog = Catalog.open(environ={})
    own = catalog.own_keys()
    for name in catalog.providers():
        bundled = catalog.provider(name)
        if not placeholders(bundled.endpoint.base_url):
            declared = origin_of(bundled.endpoint.base_url)
            check_credential(bundled, source="manifest_env", name="X", target=declared, declared=declared, own=own)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "a.example",
        "https://",
        "https:///path",
        "https://acme.example@evil.example/",
        "https://user:pw@acme.example/",
        "https://a.example:99999",
        "https://a.example:x",
        "https://a b.example",
        "https://{x}.example",
        "https://acme.example\\@evil.example",
        "https://%61.example",
        "",
    ],
)
def test_what_is_no_plain_origin_is_refused(url: str) -> None:
    with pytest.raises(CallerError) as caught:
        origin_of(url)
    assert "pw" not in str(caught.value)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert str(origin_of("https://A.example.:443/x?y")) == "https://a.example"
    assert str(origin_of("http://a.example:8080")) == "http://a.example:8080"
    assert str(origin_of("http://[::1]:80/x")) == "http://[::1]"


def test_variables_of_a_url_are_filled_before_it_has_an_origin() -> None:
    url = "https://${NAME}.acme.example/deployments/{id}"
    assert placeholders(url) == ["NAME", "id"]
    filled = fill(url, {"NAME": "eu-1", "id": "a/b?c"})
    assert filled == "https://eu-1.acme.example/deployments/a%2Fb%3Fc"
    assert str(origin_of(filled)) == "https://eu-1.acme.example"
    assert fill("https://a.example", {}) == "https://a.example"


@pytest.mark.parametrize(
    "value",
    ["evil.example/", "evil.example#", "a.b", "A", "a@b", "a:1", "x" * 64, "", " ", "a\nb", "é", "a/../b", "%2e"],
)
def test_a_variable_inside_a_host_is_one_plain_label(value: str) -> None:
    with pytest.raises(CallerError) as caught:
        fill("https://{x}.acme.example/v1", {"x": value})
    assert value.strip() == "" or value.strip() not in str(caught.value)


@pytest.mark.parametrize("value", [".", "..", ""])
def test_a_variable_in_the_path_is_one_segment(value: str) -> None:
    with pytest.raises(CallerError):
        fill("https://acme.example/{x}/y", {"x": value})


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_the_variables_hold_the_host_ends_as_the_manifest_says(host: str, path: str) -> None:
    try:
        filled = fill("https://{h}.acme.example/a/{p}", {"h": host, "p": path})
    except CallerError:
        return
    origin = origin_of(filled)
    assert origin.host.endswith(".acme.example")
    assert (origin.scheme, origin.port) == ("https", 443)
    assert filled.split("://", 1)[1].count("/") == 2


@pytest.mark.parametrize(("ident", "name"), [("a-b", "A_B_API_KEY"), ("x1", "X1_API_KEY"), ("a_b", "A_B_API_KEY")])
def test_the_conventional_variable_of_a_provider(ident: str, name: str) -> None:
    assert conventional_env(ident) == name
