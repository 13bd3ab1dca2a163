"""Random numbers that are functions of a seed and a place, and the classes that draws leave out."""
