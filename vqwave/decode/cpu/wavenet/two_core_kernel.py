"""One stream on two cores: the layers on one of them, skips, output and drawing on the other.

The first signals each layer's units as soon as they are complete; the second adds up their skips,
draws, and signals the sample. While it draws, the first works ahead
(`single_stream.py`). Both do what `single_stream.decode_one` does, in its order, so that the bits
are the same. Neither waits indefinitely: see `produce` and `consume`.
"""

from __future__ import annotations

import numpy as np

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.matmul import Floats, fill_rows, row_product
from vqwave.decode.cpu.wavenet.atomic_flags import PATIENCE, store_release, wait_for
from vqwave.decode.cpu.wavenet.batch_kernel import (
    add_residual,
    commit_sample,
    dequantize_skips,
    embed_input,
    output_layers,
    select_column,
    words,
)
from vqwave.decode.cpu.wavenet.single_stream import (
    precompute_all,
    precompute_due,
    residual_at,
    run_layer,
    skips_at,
)
from vqwave.decode.cpu.wavenet.state import (
    APART,
    DRAWN,
    UNITS,
    Buffers,
    ConditionWindow,
    Integers,
    PastTapCache,
    State,
)
from vqwave.decode.plan import Plan
from vqwave.decode.sampling import Temperatures


@kernel
def produce(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    cache: PastTapCache,
    signals: Integers,
    count: int,
) -> int:
    """The layers of `count` samples.

    Returns for how many it ran: fewer where a sample was not drawn in time.
    """
    layers, start = len(plan.dilations), state.time[0]
    precompute_all(plan, state, cache)
    for t in range(count):
        if wait_for(signals, DRAWN, t, PATIENCE) < t:
            return t
        select_column(conditions, state, buffers.column)
        embed_input(plan, state, conditions, buffers.column, buffers.present)
        for layer in range(layers):
            run_layer(plan, state, buffers, conditions, cache, layer, start + t)
            store_release(signals, UNITS * APART, t * layers + layer + 1)
            if layer < layers - 1:
                add_residual(plan, buffers, layer, residual_at(plan, layer))
        precompute_due(plan, state, cache, start + t + 1)
    return count


@kernel
def consume(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    signals: Integers,
    first: int,
    count: int,
    streams: Integers,
    seed: np.uint64,
    temperatures: Temperatures,
    given: Floats,
    sampled: Floats,
    params: Floats,
) -> int:
    """Skips, output and the draw of samples `first` to `count`.

    Returns the number of the first that it did not draw.
    """
    layers, G, S, at = (
        len(plan.dilations),
        plan.dilated_bias.shape[1] // 2,
        plan.skip_bias.shape[0],
        skips_at(plan),
    )
    for t in range(first, count):
        fill_rows(plan.skip_bias, buffers.skip)
        done = 0
        while done < layers:
            there = wait_for(signals, UNITS, t * layers + done + 1, PATIENCE) - t * layers
            if there <= 0:
                return t
            there = max(min(there, layers), done)
            here = at + words(plan, done * G * S)
            row_product(
                plan.weights, here, (there - done) * G, S, buffers.units, done * G, buffers.skip, 0
            )
            done = there
        dequantize_skips(plan, buffers)
        output_layers(plan, buffers, at + words(plan, layers * G * S))
        commit_sample(
            plan,
            state,
            buffers,
            conditions,
            0,
            t,
            streams,
            seed,
            temperatures,
            given,
            sampled,
            params,
        )
        store_release(signals, DRAWN * APART, t + 1)
    return count
