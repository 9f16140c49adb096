"""Conformance: cases of the specification's suite, run through the code that real calls use.

A room beside the simulator: it sees the whole core, policies and credentials, and nothing of it is seen by a call. The
rule that must stay true: nothing is worked out here that a call works out elsewhere; what is here makes a case into
arguments, and what came out into the words of the case.
"""

from __future__ import annotations

from .run import Report, Result, run_suite

__all__ = ["Report", "Result", "run_suite"]
