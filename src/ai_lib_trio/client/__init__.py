"""The client: what users hold. The composition root: it hands each actor its engine, its rules and its policies."""
