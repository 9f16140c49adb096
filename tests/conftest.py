"""What every test has: the fixture that proves that nothing was left behind."""

pytest_plugins = ["ai_lib_trio.testing.pytest_plugin"]
