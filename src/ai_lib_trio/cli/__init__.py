"""The `ailib` command: arguments become calls of the library, its values become lines that people or programs read.

One file a command; `app` puts them together, `screen` knows terminals, `running` knows Ctrl-C. This room alone imports
click and rich. The rule that must stay true: exit 0 done, 1 failed with one line on stderr, 2 usage, 130 interrupted,
141 where whoever read the output has left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

NEEDS = ("click", "rich")  # what the extra `cli` brings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (the process's own by default); gives the exit code."""
    from importlib.util import find_spec

    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"ailib needs {' and '.join(missing)}: pip install 'ai-lib-trio[cli]'\n")
        return 2
    from .app import run

    return run(arguments)
