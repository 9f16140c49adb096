"""Actors: who owns a provider's connections, who watches over them, and how a call passes through.

A call's way, in the order of the files: `target` (what the model resolved to), `job` (one attempt, handed over),
`supervisor` (inboxes, dockets, restarts, shutdown), `provider` (the actor: queue and admission), `exchange` (one
attempt's conversation with the engine), `stream` (the channel to the caller), `tree` (what it looks like from outside).
"""
