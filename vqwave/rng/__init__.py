"""Random numbers that are functions of a seed and a place."""
