"""The HTTP API: JSON over HTTP in front of a served Triton, as a client of its gRPC.

Requests to `recommend` and its answers pass as they come: the server checks them, so that refusals are those of gRPC.
"""
