r"""Output heads: network channels -> a distribution over the next sample.

A head is a spec, derived from `Head`; one from outside the package has its place as kind. Called
with the network's output it gives a distribution with one interface for all kinds:

- ``log_prob(x)``: nats; the log mass of the cell that holds x for discrete heads, the log density
  for continuous ones.
- ``log_density(x)``: nats per unit of amplitude, for every kind; this is what makes heads
  comparable (`metrics.likelihood`) and what a student is distilled against, since it is smooth in x
  and in the parameters.
- ``sample(u)``: x from the four uniforms u (4, B, T) that one Philox counter yields, so that every
  back-end draws the same.
- ``mean``: (B, T).

B batch, T samples; a waveform lies in [-1, 1), 16-bit levels are k / 32768.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vqwave.audio import mu_law_decode, mu_law_encode
from vqwave.config import OpenTo, Part, option, spec
from vqwave.errors import UserInputError
from vqwave.rng.top_p import outside_nucleus

# its scales vanish against any amplitude, its quotients of logits are still finite in float32
COLDEST = 1e-30
# a temperature, or factors (B or 1, T) above 0; None: as that of the choice
Scale = float | Tensor | None
# uniforms that one counter of the generator yields: the component or class, the value, two more for
# Box-Muller
WORDS = 4


def checked_temperature(temperature: float, name: str = "temperature") -> float:
    """What a sampler divides by: 0 becomes `COLDEST`, which takes the likeliest class, or the
    likeliest component's location.

    The same for every back-end, whose arithmetic has then no special case; exact ties are broken by
    the seed. Raises UserInputError for a temperature below 0 or not finite.
    """
    if not 0 <= temperature < math.inf:
        raise UserInputError(
            f"{name} {temperature}: expected a number of 0 (the likeliest) or above"
        )
    return max(float(temperature), COLDEST)


class Distribution(ABC):
    """A distribution over each sample, independent given its parameters.

    Shapes: module docstring.
    """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def sample(self, u: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def mean(self) -> Tensor: ...


def _choose(weights: Tensor, u: Tensor) -> Tensor:
    """Inverse CDF over the channels: weights (B, K, T), u (B, T) -> index (B, T)."""
    cdf = weights.cumsum(1)
    return (cdf <= u[:, None] * cdf[:, -1:]).sum(1).clamp(max=weights.shape[1] - 1)


class Categorical(Distribution):
    """Classes whose cells tile [-1, 1]: logits (B, K, T); the head defines the cells."""

    def __init__(self, logits: Tensor, head: Classes) -> None:
        self.logits = logits
        self.head = head

    def log_prob(self, x: Tensor) -> Tensor:
        return -F.cross_entropy(self.logits, self.head.encode(x), reduction="none")

    def log_density(self, x: Tensor) -> Tensor:
        widths = self.head.widths().to(self.logits)
        return self.log_prob(x) - widths[self.head.encode(x)].log()

    def sample(self, u: Tensor) -> Tensor:
        return self.head.decode(_choose(self.logits.softmax(1), u[0])).to(self.logits.dtype)

    def nucleus(self, p: float) -> Categorical:
        """The fewest, most probable classes that hold a mass of p: `rng.top_p`."""
        beyond = outside_nucleus(self.logits.softmax(1), p)
        return Categorical(self.logits.masked_fill(beyond, -torch.inf), self.head)

    @property
    def mean(self) -> Tensor:
        values = self.head.decode(torch.arange(self.head.classes, device=self.logits.device)).to(
            self.logits.dtype
        )
        return torch.einsum("bkt,k->bt", self.logits.softmax(1), values)


class Mixture(Distribution):
    """A mixture over location-scale components: logits, location, log_scale (B, M, T)."""

    STANDARD_ENTROPY: ClassVar[float]

    def __init__(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> None:
        self.logits = logits
        self.location = location
        self.log_scale = log_scale

    @abstractmethod
    def component_log_density(self, x: Tensor) -> Tensor:
        """x (B, 1, T) -> (B, M, T)."""

    @staticmethod
    @abstractmethod
    def standard_sample(u: Tensor) -> Tensor:
        """u (4, B, T) -> a draw of location 0 and scale 1, (B, T)."""

    @staticmethod
    @abstractmethod
    def standard_quantile(p: Tensor) -> Tensor:
        """p (B, T) in (0, 1) -> the p-quantile of location 0 and scale 1."""

    def quantile(self, p: Tensor) -> Tensor:
        """The p-quantile of a mixture of one component, differentiable in its parameters.

        p (B, T) -> (B, T).
        """
        return self.location[:, 0] + self.log_scale[:, 0].exp() * self.standard_quantile(p)

    @property
    def entropy(self) -> Tensor:
        """Differential entropy of a mixture of one component, nats, (B, T)."""
        return self.log_scale[:, 0] + self.STANDARD_ENTROPY

    def log_density(self, x: Tensor) -> Tensor:
        return torch.logsumexp(
            self.logits.log_softmax(1) + self.component_log_density(x[:, None]), 1
        )

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    def sample(self, u: Tensor) -> Tensor:
        component = _choose(self.logits.softmax(1), u[0])[:, None]
        location = self.location.gather(1, component).squeeze(1)
        scale = self.log_scale.gather(1, component).squeeze(1).exp()
        return (location + scale * self.standard_sample(u)).clamp(-1.0, 1.0)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(1) * self.location).sum(1)


class GaussianMixture(Mixture):
    """Continuous mixture of normals; one component is ClariNet's single Gaussian.

    Ping et al., 2019, sec. 3.1. arXiv:1807.07281
    """

    STANDARD_ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e)

    def component_log_density(self, x: Tensor) -> Tensor:
        standard = (x - self.location) * (-self.log_scale).exp()
        return -0.5 * standard.square() - self.log_scale - 0.5 * math.log(2.0 * math.pi)

    @staticmethod
    def standard_sample(u: Tensor) -> Tensor:
        """Box and Muller, 1958: two uniforms give one normal."""
        return (-2.0 * u[1].log()).sqrt() * (2.0 * math.pi * u[2]).cos()

    @staticmethod
    def standard_quantile(p: Tensor) -> Tensor:
        return torch.special.ndtri(p)


class LogisticMixture(Mixture):
    """Continuous mixture of logistics. The entropy of one is ln s + 2 (arXiv:1711.10433, eq. 7)."""

    STANDARD_ENTROPY = 2.0

    def component_log_density(self, x: Tensor) -> Tensor:
        standard = (x - self.location) * (-self.log_scale).exp()
        return -F.softplus(standard) - F.softplus(-standard) - self.log_scale

    @staticmethod
    def standard_sample(u: Tensor) -> Tensor:
        return torch.logit(u[1])

    @staticmethod
    def standard_quantile(p: Tensor) -> Tensor:
        return torch.logit(p)


class DiscretisedLogisticMixture(LogisticMixture):
    r"""Mixture of logistics rounded to the nearest of `2**bits` levels.

    .. math:: \ln[\sigma(a) - \sigma(b)] = -\mathrm{softplus}(-a) - \mathrm{softplus}(b) + \ln(1 -
    e^{-\Delta/s})

    with a, b = (x - location +- delta / 2) / s: exact, without the thresholds of the usual code,
    which count 33 levels a side as "edge" at 16 bit. The outermost take the tails. `log_prob` is of
    the level nearest to x.

    Reference: Salimans et al., 2017 (PixelCNN++), sec. 2.1. arXiv:1701.05517
    """

    def __init__(self, logits: Tensor, location: Tensor, log_scale: Tensor, bits: int) -> None:
        super().__init__(logits, location, log_scale)
        self.delta = 2.0 / 2**bits

    def _interval(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln sigma(a), ln sigma(-b) and ln(1 - exp(-delta / s)), each (B, M, T)."""
        inverse_scale = (-self.log_scale).exp()
        centred = x - self.location
        below = -F.softplus(-(centred + self.delta / 2) * inverse_scale)
        above = -F.softplus((centred - self.delta / 2) * inverse_scale)
        return below, above, self._log_width(inverse_scale)

    def _log_width(self, inverse_scale: Tensor) -> Tensor:
        """ln(1 - exp(-y)) of y = delta / s; a small y by its series: the other form's gradient
        becomes 0 / 0 for a huge s.
        """
        y = self.delta * inverse_scale
        small, t = y < 0.01, y.clamp(max=0.01)
        series = math.log(self.delta) - self.log_scale - t / 2 + t.square() / 24 - t.pow(4) / 2880
        return torch.where(small, series, (-torch.expm1(-torch.where(small, 1.0, y))).log())

    def _level(self, x: Tensor) -> Tensor:
        return ((x / self.delta).round() * self.delta).clamp(-1.0, 1.0 - self.delta)

    def log_prob(self, x: Tensor) -> Tensor:
        x = self._level(x)
        below, above, width = self._interval(x[:, None])
        lowest, highest = x[:, None] < -1.0 + self.delta / 2, x[:, None] > 1.0 - 1.5 * self.delta
        mass = torch.where(lowest, below, torch.where(highest, above, below + above + width))
        return torch.logsumexp(self.logits.log_softmax(1) + mass, 1)

    def component_log_density(self, x: Tensor) -> Tensor:
        """The mass of the interval of width delta around x, over delta: smooth in x, no edges."""
        return sum(self._interval(x), torch.zeros_like(x)) - math.log(self.delta)

    def sample(self, u: Tensor) -> Tensor:
        return self._level(super().sample(u))


def _exact(params: Tensor) -> Tensor:
    """Likelihood arithmetic never runs below float32."""
    return params if params.dtype == torch.float64 else params.float()


class Head(Part):
    """Settings of an output head (`@spec`), and what it makes of a network's output.

    A subclass from anywhere is a `head.kind` of its own, `package.module:Spec`. A continuous head
    gives `channels` and `__call__`; a categorical one is derived from `Classes`.
    """

    part: ClassVar[str] = "head"
    continuous: ClassVar[bool] = True
    """Whether the network's input is the amplitude of past samples; else their class."""
    discrete: ClassVar[bool] = False
    """Whether `log_prob` is the mass of a cell of amplitude; else a density."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Output channels of the network."""

    @abstractmethod
    def __call__(
        self, params: Tensor, temperature: float = 1.0, scale: Scale = None
    ) -> Distribution:
        """params (B, channels, T) -> the distribution of each sample."""

    @property
    def bits(self) -> float:
        """Bits that a sample costs under the uniform distribution, on the grid of a recording."""
        return 16.0

    @property
    def cost_unit(self) -> str:
        """What a sample's negative log-likelihood is measured in."""
        if self.continuous:
            return f"bits per {self.bits:g}-bit sample"
        return f"bits per sample of {self.channels} classes"

    @property
    def temperature_parts(self) -> tuple[str, ...]:
        """Which temperatures change a sample: `choice` of the class or component, `scale`."""
        return ("choice", "scale")

    def cells(self, x: Tensor) -> Tensor:
        """x in [-1, 1] -> which cell of a recording's grid each sample is in, int64."""
        return ((x + 1.0) * 2 ** (self.bits - 1)).round().long().clamp(0, 2 ** int(self.bits) - 1)

    def cell_edges(self) -> Tensor:
        """Where K cells begin and end in amplitude, (K + 1,) float64."""
        return (torch.arange(2 ** int(self.bits) + 1).double() - 0.5) * 2.0 ** (1 - self.bits) - 1.0

    def initial_bias(self) -> Tensor:
        """The bias that an untrained network's last layer starts from, (channels,)."""
        return torch.zeros(self.channels)

    def units(self) -> Tensor:
        """What 1 stands for in each channel of a network's last layer, (channels,)."""
        return torch.ones(self.channels)

    def shifted(self, params: Tensor, location: Tensor) -> Tensor:  # noqa: ARG002
        """params (B, channels, T) with location (B, T) added to all locations: with a predictor.

        Raises UserInputError for a head without locations.
        """
        raise UserInputError(f"predictor: a head of kind {self.kind} has no locations to predict")


@spec
class Classes(Head):
    """What the categorical heads share: K classes, whose cells tile [-1, 1]."""

    classes: Annotated[int, Field(ge=2)] = option(default=256, help="classes K")
    continuous: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return self.classes

    @property
    def bits(self) -> float:
        return math.log2(self.classes)

    @property
    def temperature_parts(self) -> tuple[str, ...]:
        return ("choice",)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """x (B, T) in [-1, 1] -> the class of each sample, int64."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Classes -> the amplitude that each stands for."""

    @abstractmethod
    def widths(self) -> Tensor:
        """Width of each class' cell in amplitude, (K,) float64; they sum to 2."""

    def cells(self, x: Tensor) -> Tensor:
        return self.encode(x)

    def cell_edges(self) -> Tensor:
        return torch.cat([torch.full((1,), -1.0).double(), self.widths()]).cumsum(0)

    def __call__(
        self,
        params: Tensor,
        temperature: float = 1.0,
        scale: Scale = None,  # noqa: ARG002
    ) -> Categorical:
        """params (B, K, T): logits. Classes have no scale."""
        return Categorical(_exact(params) / checked_temperature(temperature), self)


@spec
class MuLaw(Classes):
    """Softmax over mu-law classes. van den Oord et al., 2016, sec. 2.2. arXiv:1609.03499"""

    kind: Literal["mu_law"] = "mu_law"
    classes: Annotated[int, Field(ge=2)] = option(default=256, help="levels of the mu-law code")

    def encode(self, x: Tensor) -> Tensor:
        return mu_law_encode(x, self.classes)

    def decode(self, codes: Tensor) -> Tensor:
        return mu_law_decode(codes, self.classes)

    def widths(self) -> Tensor:
        edges = torch.arange(self.classes + 1, dtype=torch.float64) - 0.5
        return mu_law_decode(edges.clamp(0, self.classes - 1), self.classes).diff()


@spec
class LinearBins(Classes):
    """Softmax over equal bins of amplitude, as in ClariNet's comparison (2,048 there).

    arXiv:1807.07281, table 1
    """

    kind: Literal["linear"] = "linear"
    classes: Annotated[int, Field(ge=2)] = option(default=2048, help="equal bins of [-1, 1)")

    def encode(self, x: Tensor) -> Tensor:
        return ((x + 1.0) * (self.classes / 2)).floor().long().clamp(0, self.classes - 1)

    def decode(self, codes: Tensor) -> Tensor:
        return (codes + 0.5) * (2.0 / self.classes) - 1.0

    def widths(self) -> Tensor:
        return torch.full((self.classes,), 2.0 / self.classes, dtype=torch.float64)


@spec
class LocationScale(Head):
    """What the continuous heads share: parameters (B, 3M, T) as logits, locations and log-scales (2
    channels for M = 1).
    """

    components: Annotated[int, Field(ge=1)] = option(default=1, help="mixture components")
    min_log_scale: float = option(
        default=-7.0, help="floor of the log-scale, applied before likelihood and sampling alike"
    )
    initial_log_scale: float = option(
        default=-3.0, help="log-scale that an untrained network starts from: near the data's spread"
    )
    location_scale: Annotated[float, Field(gt=0)] = option(
        default=1.0,
        help="amplitude that 1 stands for in the network's locations: 0.05, near the data's spread,"
        " keeps Adam's steps small there",
    )

    @property
    def channels(self) -> int:
        return 2 if self.components == 1 else 3 * self.components

    @property
    def temperature_parts(self) -> tuple[str, ...]:
        return ("scale",) if self.components == 1 else ("choice", "scale")

    def initial_bias(self) -> Tensor:
        m = self.components
        location = torch.linspace(-0.1, 0.1, m) if m > 1 else torch.zeros(1)
        log_scale = torch.full((m,), self.initial_log_scale)
        return torch.cat([torch.zeros(m), location, log_scale][m == 1 :])

    def units(self) -> Tensor:
        one = torch.ones(self.components)
        location = torch.full((self.components,), self.location_scale)
        return torch.cat([one, location, one][self.components == 1 :])

    def shifted(self, params: Tensor, location: Tensor) -> Tensor:
        """params (B, channels, T) with location (B, T) added to all components' locations."""
        shift = torch.zeros_like(params)
        first = 0 if self.components == 1 else self.components
        shift[:, first : first + self.components] = location[:, None]
        return params + shift

    def __call__(self, params: Tensor, temperature: float = 1.0, scale: Scale = None) -> Mixture:
        """params (B, channels, T); the temperature sharpens the choice, the scale narrows each
        component.
        """
        params, temperature = _exact(params), checked_temperature(temperature)
        if isinstance(scale, Tensor):
            narrowing: Tensor | float = scale.log().to(params)[:, None]
        else:
            narrowing = math.log(temperature if scale is None else checked_temperature(scale))
        if self.components == 1:
            logits, (location, log_scale) = torch.zeros_like(params[:, :1]), params.chunk(2, 1)
        else:
            logits, location, log_scale = params.chunk(3, 1)
        log_scale = log_scale.clamp(min=self.min_log_scale) + narrowing
        return self.mixture(logits / temperature, location, log_scale)

    @abstractmethod
    def mixture(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Mixture:
        """Each (B, M, T) -> the distribution."""


@spec
class MixtureOfLogistics(LocationScale):
    """Discretised mixture of logistics: Parallel WaveNet's teacher (10 components, 16 bit).

    arXiv:1711.10433, sec. 2.1
    """

    kind: Literal["mixture_of_logistics"] = "mixture_of_logistics"
    discrete: ClassVar[bool] = True
    components: Annotated[int, Field(ge=1)] = option(default=10, help="mixture components")
    sample_bits: Annotated[int, Field(ge=8, le=16)] = option(
        default=16, help="bits of the level grid that samples are rounded to, 8 to 16"
    )

    @property
    def bits(self) -> float:
        return float(self.sample_bits)

    def mixture(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Mixture:
        return DiscretisedLogisticMixture(logits, location, log_scale, bits=self.sample_bits)


@spec
class MixtureOfGaussians(LocationScale):
    """Continuous mixture of normals."""

    kind: Literal["mixture_of_gaussians"] = "mixture_of_gaussians"
    components: Annotated[int, Field(ge=1)] = option(default=10, help="mixture components")

    def mixture(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Mixture:
        return GaussianMixture(logits, location, log_scale)


@spec
class Gaussian(LocationScale):
    """One normal: ClariNet's teacher. Ping et al., 2019, sec. 3.1. arXiv:1807.07281"""

    kind: Literal["gaussian"] = "gaussian"
    components: Literal[1] = 1

    def mixture(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Mixture:
        return GaussianMixture(logits, location, log_scale)


@spec
class Logistic(LocationScale):
    """One logistic: the family of the IAF student's one-step conditional."""

    kind: Literal["logistic"] = "logistic"
    components: Literal[1] = 1

    def mixture(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Mixture:
        return LogisticMixture(logits, location, log_scale)


AnyHead = Annotated[
    MuLaw | LinearBins | MixtureOfLogistics | MixtureOfGaussians | Gaussian | Logistic,
    OpenTo(Head),
]
