"""Experiments and the trainer."""
