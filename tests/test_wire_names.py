"""The wire room's public names work from a manifest, as the pipeline's do."""

from __future__ import annotations

import pytest

from ai_lib_trio import Message, Request
from ai_lib_trio.errors import CallerError
from ai_lib_trio.pipeline import compile_pipeline
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.wire import classify, compile_encoder


def test_a_manifest_gives_an_encoder_of_any_of_its_families() -> None:
    manifest = Catalog.open(None, environ={}).provider("openai")
    request = Request(model="any", messages=(Message.user("Hi"),))
    assert compile_encoder(manifest).encode(request).path == "/chat/completions"
    assert compile_encoder(manifest, "responses").encode(request).path == "/responses"
    assert compile_pipeline(manifest, "responses").finish()[-1].__class__ is StreamError


def test_a_family_that_is_not_there_is_the_callers_mistake() -> None:
    with pytest.raises(CallerError, match="nonsense"):
        compile_encoder(Catalog.open(None, environ={}).provider("openai"), "nonsense")


def test_a_refusal_is_classified_by_its_status_where_nothing_else_is_known() -> None:
    catalog = Catalog.open(None, environ={})
    said = StreamError(kind="provider", message="slow down")
    error = classify(said, status=429, headers={"retry-after": "7"}, table=catalog.error_table(), now_wall=0.0)
    assert (error.code, error.retry_after_s) == ("E2001", 7.0)
