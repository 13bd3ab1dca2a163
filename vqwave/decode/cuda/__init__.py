"""Decoding on a CUDA device: one Triton kernel."""
