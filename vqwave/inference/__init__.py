"""Trained models as people use them."""
