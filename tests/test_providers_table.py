"""docs/providers.md is what the manifests say."""

from __future__ import annotations

import providers_table


def test_the_page_of_providers_is_the_one_that_the_manifests_make() -> None:
    said = providers_table.PAGE.read_text(encoding="utf-8")
    assert said == providers_table.page(), "write it anew: python tests/providers_table.py"
