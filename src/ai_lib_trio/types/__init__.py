"""The values that cross every room: messages, requests, events, replies, usage, statistics and records.

All are frozen msgspec structs that `msgspec.json.encode` writes. This room imports only `errors`.
"""
