"""Decoding: the reference loops, and the back-ends that are faster."""
