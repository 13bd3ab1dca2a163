"""Building blocks: causal convolution, the WaveNet stack, conditioning, encoders, quantizers,
flows.
"""
