"""A prior over two streams: the order of its symbols, one law over both, apart alphabets."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vqwave.decode.code_sampling import sample_codes
from vqwave.errors import UserInputError
from vqwave.models.prior import CodeNetwork, CodeStream
from vqwave.models.symbols import PitchBooks, SymbolOrder
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import Stack, StackSpec

ORDERS = [
    SymbolOrder(1, 5, PitchBooks(1, 3, 2)),
    SymbolOrder(2, 4, PitchBooks(1, 7, 3)),
    SymbolOrder(1, 6, PitchBooks(2, 2, 1)),
]


def network(order: SymbolOrder, *, untold: float = 0.3, seed: int = 0) -> CodeNetwork:
    """Random weights, float64, in evaluation mode."""
    torch.manual_seed(seed)
    stack = StackSpec(
        layers=4,
        dilation_cycle=3,
        residual_channels=8,
        gate_channels=8,
        skip_channels=8,
        hidden_channels=12,
    )
    conditioner = ConditionerSpec(channels=6).build(0, 1, {"speaker": ["ann", "untold"]})
    embedding = torch.nn.Embedding(sum(order.sizes) + len(order.sizes), 8)
    place = torch.nn.Embedding(order.slots, 8)
    built = Stack(stack, order.outputs, 6)
    net = CodeNetwork(embedding, place, built, conditioner, pitch=order.pitch, label_dropout=untold)
    for p in net.stack.parameters():
        p.data.mul_(1.5)
    return net.double().eval()


def codes_of(order: SymbolOrder, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator, pitch = torch.Generator().manual_seed(seed), order.pitch
    codes = torch.randint(order.size, (batch, order.books, frames), generator=generator)
    slow = (batch, pitch.books, -(-frames // pitch.ratio))
    return codes, torch.randint(pitch.size, slow, generator=generator)


def one(net: CodeNetwork, codes: Tensor, pitch: Tensor, *, whole: bool = True) -> float:
    """ln p of an utterance (Q, F) and (Q_p, F_p), with its end; or of a mere beginning."""
    ended = net.with_end(codes[None], torch.tensor([codes.shape[1]]), pitch[None])
    mask = ended.mask if whole else ended.mask & (ended.symbols != net.end)
    return net(ended.symbols, {}, mask).sum().item()


def test_a_pitch_code_stands_before_the_frames_that_it_covers() -> None:
    order = SymbolOrder(2, 9, PitchBooks(1, 5, 2))
    codes, pitch = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0, 4]])
    assert order.flat(codes, pitch).tolist() == [0, 1, 4, 2, 5, 4, 3, 6]
    assert order.slot_books == [2, 0, 1, 0, 1]
    assert order.frame_starts == [True, False, False, True, False]
    assert [order.count(frames) for frames in range(5)] == [0, 3, 5, 8, 10]
    ended = network(order).with_end(codes[None], torch.tensor([3]), pitch[None])
    assert ended.symbols[0].t().flatten().tolist() == [0, 1, 4, 2, 5, 4, 3, 6, order.end, 0]
    assert ended.mask[0].t().flatten().tolist() == [True] * 9 + [False]


@pytest.mark.parametrize("order", [*ORDERS, SymbolOrder(3, 4)])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 7])
def test_sequences_are_read_back(order: SymbolOrder, frames: int) -> None:
    codes = torch.randint(order.size, (order.books, frames))
    pitch = None
    if order.pitch is not None:
        pitch = torch.randint(order.pitch.size, (order.pitch.books, -(-frames // order.ratio)))
    symbols = order.flat(codes, pitch)
    assert len(symbols) == order.count(frames)
    assert order.frames(len(symbols)) == frames
    back, slow = order.unflatten(symbols)
    assert torch.equal(back, codes)
    assert slow is None if pitch is None else torch.equal(slow, pitch)
    for cut in range(len(symbols)):
        assert order.unflatten(symbols[:cut])[0].shape[1] == order.frames(cut)


@pytest.mark.parametrize("order", ORDERS)
def test_a_book_has_mass_on_its_own_symbols_alone(order: SymbolOrder) -> None:
    net = network(order)
    projected = net.project({}, 1)
    for slot, last, ends in itertools.product(range(order.slots), (0, order.end), (True, False)):
        log_p = net.log_probs(torch.tensor([[last]]), torch.tensor([[slot]]), projected, ends=ends)
        own = [*range(order.sizes[order.slot_books[slot]])]
        if ends and last != order.end and order.frame_starts[slot]:
            own.append(order.end)
        assert log_p[0, :, 0].isfinite().nonzero().flatten().tolist() == own
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "order", [SymbolOrder(1, 2, PitchBooks(1, 3, 2)), SymbolOrder(1, 2, PitchBooks(2, 1, 1))]
)
def test_the_probabilities_of_all_utterances_sum_to_one(order: SymbolOrder) -> None:
    """All utterances of one and two frames, and all beginnings of three, whatever follows."""
    net, total = network(order), 0.0
    for frames in (1, 2, 3):
        slow = -(-frames // order.ratio) * order.pitch.books
        for flat in itertools.product(range(order.size), repeat=frames * order.books):
            codes = torch.tensor(flat).view(frames, order.books).t()
            for melody in itertools.product(range(order.pitch.size), repeat=slow):
                pitch = torch.tensor(melody).view(-1, order.pitch.books).t()
                total += torch.tensor(one(net, codes, pitch, whole=frames < 3)).exp().item()
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_one_pass_is_step_by_step_and_causal(order: SymbolOrder) -> None:
    net = network(order)
    codes, pitch = codes_of(order, 2, 7)
    grid = order.merge(codes, pitch)
    whole = net(grid, {}).transpose(1, 2).flatten(1)
    flat, count = grid.transpose(1, 2).flatten(1), order.count(7)
    stream, last = CodeStream(net, {}, 2), torch.full((2,), net.end)
    for place in range(count):
        log_p = stream.next(last)
        last = flat[:, place]
        found = log_p.gather(1, last[:, None])[:, 0]
        assert torch.allclose(found, whole[:, place], atol=1e-9, rtol=0)
    for place in range(count - 1):
        changed, book = flat.clone(), order.slot_books[place % order.slots]
        changed[:, place] = (changed[:, place] + 1) % order.sizes[book]
        after = net(changed.view(2, -1, order.slots).transpose(1, 2), {})
        after = after.transpose(1, 2).flatten(1)
        assert torch.equal(after[:, :place], whole[:, :place])
        assert (after[:, place + 1] != whole[:, place + 1]).all(), "each stream sees the other"


@pytest.mark.parametrize("order", ORDERS)
def test_padding_changes_nothing(order: SymbolOrder) -> None:
    net, lengths = network(order), torch.tensor([8, 3, 5])
    codes, pitch = codes_of(order, 3, 8)
    ended = net.with_end(codes, lengths, pitch)
    assert ended.mask.sum() == sum(order.count(n) + 1 for n in (8, 3, 5))
    together = net(ended.symbols, {}, ended.mask).sum((1, 2))
    for i, n in enumerate(lengths.tolist()):
        alone = one(net, codes[i, :, :n], pitch[i, :, : -(-n // order.ratio)])
        assert together[i].item() == pytest.approx(alone, abs=1e-9)


def test_draws_follow_the_law() -> None:
    """Counts of whole utterances against their probabilities, by chi-square."""
    order, draws, frames = SymbolOrder(1, 2, PitchBooks(1, 2, 2)), 2000, 3
    net, counts = network(order), {}
    for codes, pitch in sample_codes(net, {}, frames, streams=torch.arange(draws)):
        assert pitch.shape == (1, -(-codes.shape[1] // 2))
        key = (tuple(codes[0].tolist()), tuple(pitch[0].tolist()))
        counts[key] = counts.get(key, 0) + 1
    likely = {}
    for key in counts:
        codes, pitch = (torch.tensor([row]) for row in key)
        log_p = one(net, codes, pitch, whole=len(key[0]) < frames)  # else cut: whatever follows
        likely[key] = draws * torch.tensor(log_p).exp().item()
    kept = [key for key in counts if likely[key] > 5]
    distance = sum((counts[key] - likely[key]) ** 2 / likely[key] for key in kept)
    assert len(kept) > 5
    assert distance < len(kept) + 4 * (2 * len(kept)) ** 0.5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stop", [True, False])
def test_a_seed_gives_the_same_codes_alone_and_in_a_batch(order: SymbolOrder, stop: bool) -> None:
    net, streams = network(order), torch.arange(6)
    together = sample_codes(net, {}, 8, streams=streams, stop=stop, seed=3)
    for i, (codes, pitch) in enumerate(together):
        ((alone, melody),) = sample_codes(net, {}, 8, streams=streams[i : i + 1], stop=stop, seed=3)
        assert torch.equal(alone, codes)
        assert torch.equal(melody, pitch)
        assert codes.max() < order.size
        assert pitch.max() < order.pitch.size
        assert pitch.shape[1] == -(-codes.shape[1] // order.ratio)
        assert codes.shape[1] == 8 or stop


def test_running_on_fills_the_last_pitch_code_with_the_last_frame() -> None:
    """Of a network that ends each utterance after one frame: a pitch code holds four equal."""
    order = SymbolOrder(1, 5, PitchBooks(1, 3, 4))
    net = network(order)
    net.stack.out.bias.data[order.size] = 60.0  # END's
    ((codes, pitch),) = sample_codes(net, {}, 10, streams=torch.arange(1), stop=False)
    assert codes.shape == (1, 10)
    assert pitch.shape == (1, 3)
    assert all(len(set(codes[0, i : i + 4].tolist())) == 1 for i in (0, 4, 8))
    assert sample_codes(net, {}, 10, streams=torch.arange(1))[0][0].shape == (1, 1)


def test_gradients_reach_every_parameter() -> None:
    order = ORDERS[1]
    net = network(order, seed=7).train()  # no hidden unit of which is off throughout
    codes, pitch = codes_of(order, 64, 7)
    ended = net.with_end(codes, torch.full((64,), 7), pitch)
    torch.manual_seed(0)
    labels = {"speaker": torch.zeros(64, dtype=torch.int64)}
    (-net(ended.symbols, labels, ended.mask)).sum().backward()
    ends = {order.size, len(net.input_embedding.weight) - 1}  # END stands after the last book alone
    for name, p in net.named_parameters():
        rows = p.grad.flatten(1).abs().sum(1) if p.ndim > 1 else p.grad.abs()
        silent = ends if name == "input_embedding.weight" else set()
        assert {i for i, g in enumerate(rows.tolist()) if g == 0} == silent, name


def test_codes_must_be_as_the_prior_models_them() -> None:
    codes, pitch = codes_of(ORDERS[0], 1, 4)
    with pytest.raises(
        UserInputError, match="codes without pitch codes, unlike those that this prior models"
    ):
        network(ORDERS[0]).with_end(codes, torch.tensor([4]))
    with pytest.raises(UserInputError, match="codes with pitch codes, unlike those"):
        network(SymbolOrder(1, 5)).with_end(codes, torch.tensor([4]), pitch)


@pytest.mark.parametrize("books", [1, 2])
def test_without_pitch_the_law_is_the_old_one_bit_for_bit(books: int) -> None:
    order = SymbolOrder(books, 5)
    net, codes = network(order), torch.randint(5, (3, books, 6))
    symbols = codes.transpose(1, 2).flatten(1)
    last = torch.cat([torch.full((3, 1), 5), symbols[:, :-1]], 1)
    book = torch.arange(books).repeat(3, 6)
    embedding = net.input_embedding((book - 1) % books * 6 + last) + net.place(book)
    logits = net.stack(embedding.transpose(1, 2), net.project({}, 3))
    logits[:, 5] = torch.where((book == 0) & (last != 5), logits[:, 5], -torch.inf)
    expected = logits.log_softmax(1).gather(1, symbols[:, None]).view(3, 6, books).transpose(1, 2)
    assert torch.equal(net(codes, {}), expected)
