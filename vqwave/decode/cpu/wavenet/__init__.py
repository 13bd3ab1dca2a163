"""The sample loop of a WaveNet."""
