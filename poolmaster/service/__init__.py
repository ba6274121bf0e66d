"""Thin gRPC handlers: decode, one call, encode."""
