"""Resilience: policies around a call (wrappers of one Service) and the gate in front of a provider (a state machine).

Imports everything up to `service`; the policies import trio, the state machines do not. Policies decide in a
synchronous function and act in an asynchronous one. docs/resilience.md has the order and the defaults' reasons.
"""
