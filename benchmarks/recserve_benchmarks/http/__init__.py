"""The HTTP API against gRPC, over the same server."""
