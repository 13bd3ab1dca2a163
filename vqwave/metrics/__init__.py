"""What a model is measured by: distances between spectra."""

from vqwave.metrics.spectral import (
    log_spectral_distance,
    mel_cepstral_distortion,
    multi_resolution_stft,
)

__all__ = ["log_spectral_distance", "mel_cepstral_distortion", "multi_resolution_stft"]
