"""The pipeline: bytes of a reply become standard events, by the `decode` rules of a dialect.

decode (bytes -> frames), event_map (frames -> facts), accumulate (facts -> events), pipeline (all of it, one a call).
Sans-IO: imports `protocol` and `types`, never trio or httpx.
"""

from __future__ import annotations

from .pipeline import Counts, DecodeProgram, Pipeline, compile_decoder, compile_pipeline

__all__ = ["Counts", "DecodeProgram", "Pipeline", "compile_decoder", "compile_pipeline"]
