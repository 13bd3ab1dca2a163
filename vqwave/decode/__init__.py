"""Decoding: the reference loop, which is the truth, and what makes it repeatable."""
