"""The one pass of a student."""
