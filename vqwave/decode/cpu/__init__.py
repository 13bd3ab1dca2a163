"""Decoding on a CPU: kernels that numba compiles."""
