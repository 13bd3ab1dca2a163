"""One more voice in a spectral decoder, whose frames condition a decoder.

Codes keep something of the voice that they were made of. A spectral decoder that is trained on
recordings of the new voice alone takes the voice from their codes, and not from the label:
conversions to it fall short, and the frames of the known voices drift. So each step has four
terms:

- the error of the frames of recordings of the new voice, under its labels;
- the error of recordings of the known voices that are converted to it, against the frames of its
  recordings whose codes are nearest (`nearest_frames.py`);
- the cross-entropy of its label for recordings of the known voices that are converted to it, by a
  classifier of speakers that is trained on recordings meanwhile;
- the distance from the frames that the model had before, of recordings of either kind under labels
  of known voices: what it knows stays.

References: Kameoka et al., 2018 (classifier of conversions). arXiv:1808.05092; Li and Hoiem, 2016
(learning without forgetting), sec. 3. arXiv:1606.09282
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vqwave.models import VQVAE
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifierSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder
from vqwave.nn.masks import stretched
from vqwave.training.coded_clips import CodedClips, Labels
from vqwave.training.nearest_frames import nearest_frames

STEPS, FIRST = 400, 200  # the classifier's alone come before the steps
BATCH = 8  # clips of the new voice, and as many of the known ones
RATE, ROW_RATE = 1e-3, 0.02  # of Adam, for all weights and for the new voice's row
CONVERSION = 0.1  # weight of the cross-entropy, in nats
NEAREST = 0.3  # weight of the error against the nearest frames
NOISE = 0.3  # most that the classifier's input has, standard deviations


class SpectralAdaptation:
    """The spectral decoder of a model, trained on clips of a new voice `row` and of known ones."""

    def __init__(
        self, model: VQVAE, row: int, own: CodedClips, known: CodedClips, seed: int
    ) -> None:
        assert model.spectral_decoder is not None
        self.model, self.row, self.own, self.known = model, row, own, known
        self.decoder: SpectralDecoder = model.spectral_decoder
        self.before = copy.deepcopy(self.decoder)
        self.generator = torch.Generator().manual_seed(seed)
        weight = self.decoder.embeddings["speaker"].get_parameter("weight")
        # noise comes from the generator: the same on each of several processes
        spec, speakers = ConversionClassifierSpec(noise=0.0), list(map(str, range(len(weight))))
        channels, ratio = self.decoder.frontend.channels, self.decoder.ratio
        self.classifier = spec.build(channels, ratio, {"speaker": speakers})
        self.weight = weight
        self.nearest = nearest_frames(known, own)

    def fit(self, *, quiet: bool = True) -> None:
        """Train it, and leave it without gradients. quiet: without a bar."""
        body = [p for p in self.decoder.parameters() if p is not self.weight]
        groups = [{"params": body, "lr": RATE}, {"params": [self.weight], "lr": ROW_RATE}]
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
        classifying = torch.optim.Adam(self.classifier.parameters(), RATE)
        self.decoder.requires_grad_(requires_grad=True)
        rows_of_known = torch.arange(len(self.weight)) != self.row
        # Adam leaves rows where they are that never have a gradient
        hook = self.weight.register_hook(lambda g: g.masked_fill(rows_of_known[:, None], 0.0))
        for step in tqdm(range(FIRST + STEPS), desc="spectral decoder", disable=quiet, leave=False):
            own, rows = self.own.at(self._drawn(self.own)), self._drawn(self.known)
            known = self.known.at(rows)
            classifying.zero_grad()
            self._classification(own, known).backward()
            classifying.step()
            if step >= FIRST:
                optimizer.zero_grad()
                self._loss(own, known, self.nearest[rows]).backward()
                optimizer.step()
                schedule.step()
        hook.remove()
        self.decoder.requires_grad_(requires_grad=False).zero_grad()

    def _drawn(self, clips: CodedClips) -> Tensor:
        """Rows of a batch of them."""
        return torch.randint(len(clips), (BATCH,), generator=self.generator)

    def _classification(self, *clips: CodedClips) -> Tensor:
        """Of recordings, which trains the classifier: cross-entropy, nats a clip."""
        losses = [self._misclassified(x.frames, x.mask, x.labels) for x in clips]
        return torch.stack(losses).mean()

    def _misclassified(self, frames: Tensor, mask: Tensor, labels: Labels) -> Tensor:
        """Cross-entropy of the speaker, of frames with noise, as much as each clip draws."""
        level = NOISE * torch.rand(len(frames), 1, 1, generator=self.generator)
        noise = level * torch.randn(frames.shape, generator=self.generator)
        predicted = self.classifier(frames + noise.to(frames), mask)["speaker"]
        return F.cross_entropy(predicted, labels["speaker"])

    def _loss(self, own: CodedClips, known: CodedClips, nearest: Tensor) -> Tensor:
        """What trains the spectral decoder; nearest: of `known`, frames of the new voice."""
        terms = [_error(self._frames(self.decoder, own, own.labels), own.frames, own.mask)]
        converted = self._frames(self.decoder, known, own.labels)
        terms.append(CONVERSION * self._misclassified(converted, known.mask, own.labels))
        terms.append(NEAREST * _error(converted, nearest, known.mask))
        either, labels = own.mixed(known), self.known.at(self._drawn(self.known)).labels
        with torch.no_grad():
            kept = self._frames(self.before, either, labels)
        terms.append(_error(self._frames(self.decoder, either, labels), kept, either.mask))
        return torch.stack(terms).sum()

    def _frames(self, decoder: SpectralDecoder, clips: CodedClips, labels: Labels) -> Tensor:
        """Of clips in the voice of `labels`."""
        pitch = self.model.pitch(clips.pitch_codes, labels, clips.z.shape[-1], clips.mask)
        return decoder(clips.z, labels, clips.mask, pitch)


def _error(frames: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of the real frames, standard deviations."""
    error = (frames - wanted).abs().mean(1)
    return error[stretched(mask, error.shape[-1])].mean()
