"""Drawing a sample inside the loop: the counter's uniforms, and each head's sampling rule, as in
`distributions.py`.
"""

from __future__ import annotations

import math

import numpy as np

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.matmul import Floats
from vqwave.decode.cpu.simd import LANES, exp_scaled, larger, largest, load, store, total
from vqwave.decode.plan import CATEGORICAL, GAUSSIAN, HeadPlan


@kernel
def uniforms(seed: np.uint64, stream: int, time: int) -> tuple[float, float, float]:
    """The first three of the four uniforms of `philox.uniforms`, at one counter: Philox 4x32-10,
    Salmon et al., 2011.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = np.uint64(time) & low, np.uint64(stream) & low
    c2, c3 = np.uint64(time) >> half, np.uint64(stream) >> half
    k0, k1 = seed & low, seed >> half
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ k0, b & low, (a >> half) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return unit(c0), unit(c1), unit(c2)


@kernel
def unit(word: np.uint64) -> float:
    """23 bits of a 32-bit word, at the middle of their interval: in (0, 1)."""
    return (np.float64(word >> np.uint64(9)) + 0.5) * 2.0**-23


@kernel
def draw_class(
    logits: Floats, row: int, scratch: Floats, classes: int, temperature: float, u: float
) -> int:
    """Inverse CDF of softmax(logits / temperature): the class at which the running sum first
    exceeds u times the total.
    """
    count = scratch.shape[0]
    at = row * count
    top = load(logits, at)
    for i in range(LANES, count, LANES):
        top = larger(top, load(logits, at + i))
    peak, sharpness = largest(top), np.float32(1.0 / temperature)
    mass_of_all = 0.0
    for i in range(0, count, LANES):
        store(scratch, i, exp_scaled(load(logits, at + i), peak, sharpness))
        mass_of_all += np.float64(total(load(scratch, i)))
    threshold, reached, block = u * mass_of_all, 0.0, 0
    while block < count - LANES:
        mass = np.float64(total(load(scratch, block)))
        if reached + mass > threshold:
            break
        reached += mass
        block += LANES
    for i in range(block, classes):
        reached += np.float64(scratch[i])
        if reached > threshold:
            return i
    return classes - 1


@kernel
def draw_component(params: Floats, row: int, components: int, temperature: float, u: float) -> int:
    """The same for the few components of a mixture, whose logits come first in row `row` of params
    (B, C).
    """
    peak = params[row, 0]
    for i in range(1, components):
        peak = max(peak, params[row, i])
    mass_of_all = 0.0
    for i in range(components):
        mass_of_all += math.exp((params[row, i] - peak) / temperature)
    reached = 0.0
    for i in range(components):
        reached += math.exp((params[row, i] - peak) / temperature)
        if reached > u * mass_of_all:
            return i
    return components - 1


@kernel
def draw_value(
    head: HeadPlan,
    params: Floats,
    row: int,
    temperature: float,
    scale: float,
    u: tuple[float, float, float],
) -> float:
    """A sample of a location-scale mixture: its component from u[0], its value from the others.

    scale: a factor on the component's.
    """
    location = 0  # its channel; the log-scale's lies as many channels on as there are components
    if head.choices > 1:
        location = head.choices + draw_component(params, row, head.choices, temperature, u[0])
    log_scale = max(np.float64(params[row, location + head.choices]), head.min_log_scale)
    if head.family == GAUSSIAN:
        standard = math.sqrt(-2.0 * math.log(u[1])) * math.cos(2.0 * math.pi * u[2])
    else:
        standard = math.log(u[1] / (1.0 - u[1]))
    x: float = np.float64(params[row, location]) + math.exp(log_scale) * scale * standard
    x = min(max(x, -1.0), 1.0)
    if head.level > 0.0:
        x = min(np.rint(x / head.level) * head.level, 1.0 - head.level)
    return x


@kernel
def draw(
    head: HeadPlan,
    params: Floats,
    row: int,
    scratch: Floats,
    temperature: float,
    scale: float,
    seed: np.uint64,
    stream: int,
    time: int,
) -> float:
    """The next sample, the network's next input: a class number or an amplitude, drawn from row
    `row` of params (B, C).
    """
    u = uniforms(seed, stream, time)
    if head.family == CATEGORICAL:
        return np.float64(draw_class(params, row, scratch, head.choices, temperature, u[0]))
    return draw_value(head, params, row, temperature, scale, u)
