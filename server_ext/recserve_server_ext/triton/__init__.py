import os

# For the supervisor, which starts tritonserver by a fork: gRPC would set up its threads again in the fork, and they abort
# it where all its files are closed before it becomes tritonserver. To be said before gRPC is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
