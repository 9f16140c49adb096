"""Manifests: from YAML of any version to one internal form. Pure, but for `sources`, `remote` and `watch`, which
look at files."""
