import os

# For the supervisor, which starts tritonserver by a fork: gRPC would set up its threads again in the fork, and now and
# then they abort it, since all its files are closed before it becomes tritonserver. Read when gRPC is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
