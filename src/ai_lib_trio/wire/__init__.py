"""Requests -> what goes on the wire; what a provider refuses -> errors. Pure: imports protocol, types and errors.

`encode` compiles a dialect's templates, `auth` places a credential, `classify` reads refusals, `limits` the headers.
"""
