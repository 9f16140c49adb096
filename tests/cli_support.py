"""Running `ailib` as users do: the installed command, through pipes or on a terminal of its own."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import trio

FOUND = shutil.which("ailib", path=str(Path(sys.executable).parent))
AILIB = FOUND or "ailib"
LIMIT_S = 60  # what no command of the tests needs; reaching it is a failure


class Done(NamedTuple):
    code: int
    out: str
    err: str


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a user without keys, with what is `given`."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and "PROXY" not in name.upper()
    }
    return {
        **plain,
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "TERM": "xterm-256color",
        **(given or {}),
    }


def ailib(*arguments: str, given: str = "", env: Mapping[str, str] | None = None) -> Done:
    """Run the command with `given` on a pipe to its stdin; wait for its end."""
    done = subprocess.run(
        [AILIB, *arguments],
        input=given,
        capture_output=True,
        text=True,
        env=environment(env),
        timeout=LIMIT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


async def ailib_async(*arguments: str, given: str = "", env: Mapping[str, str] | None = None) -> Done:
    """The same, beside a simulator of this process."""
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            [AILIB, *arguments],
            stdin=given.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(env),
        )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """`ailib` on a pseudo-terminal, 100 columns wide or as given. Use it in a `with`: the command is gone after it."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None, columns: int = 100) -> None:
        import fcntl
        import struct
        import termios

        self._main, side = os.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.before = termios.tcgetattr(self._main)
        self._process = subprocess.Popen(
            [AILIB, *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=environment(env),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._main)

    def is_as_it_was(self) -> bool:
        """Whether the terminal's modes are what they were before the command began."""
        import termios

        return termios.tcgetattr(self._main) == self.before

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size; the command is told as a terminal tells it."""
        import fcntl
        import signal
        import struct
        import termios

        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._process.send_signal(signal.SIGWINCH)

    def send(self, number: int) -> None:
        """A signal, as `kill` sends it."""
        self._process.send_signal(number)

    def type(self, text: str) -> None:
        """What a person types; `\\x03` is Ctrl-C, `\\x04` Ctrl-D."""
        os.write(self._main, text.encode())

    def wait_for(self, text: str) -> str:
        """Wait until `text` is shown after what was waited for before; gives all that was shown, without colours."""
        while text not in self._plain()[self._seen :]:
            if not self._read():
                raise AssertionError(f"{text!r} was never shown; this was:\n{self._plain()}")
        self._seen = self._plain().index(text, self._seen) + len(text)
        return self._plain()

    def wait_end(self) -> int:
        """Wait for the command's end; gives its exit code."""
        while self._read():
            pass
        return self._process.wait(LIMIT_S)

    def _plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown).replace("\r\n", "\n")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._main], [], [], LIMIT_S)
        if not ready:
            raise AssertionError(f"nothing more was shown; this was:\n{self._plain()}")
        try:
            data = os.read(self._main, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)


def one_error(done: Done) -> str:
    """The one line that a failure is; asserts that it is all there is."""
    assert done.code == 1, done
    assert done.err.count("\n") == 1, done.err
    assert re.match(r"\[E\d{4} \w+\] .", done.err), done.err
    return done.err
