"""Decoding as codes come."""
