"""The gRPC edge: protobuf to core calls and back, and nothing else."""
