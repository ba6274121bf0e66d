"""Where the model meets protobuf and gRPC; nothing else in `poolcore` imports either."""
