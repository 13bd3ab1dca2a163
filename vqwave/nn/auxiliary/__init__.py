"""Networks around a VQ-VAE that only training, or the decoder's frames, need."""
