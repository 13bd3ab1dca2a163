"""The prior over codes: one law in one pass, step by step, and when drawn from; it sums to one; it
ends by itself.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vqwave.decode.code_sampling import choose, sample_codes
from vqwave.errors import UserInputError
from vqwave.models.prior import CodeNetwork, CodeStream, PriorSpec
from vqwave.models.vqvae import VQVAESpec
from vqwave.models.wavenet import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import ContextSpec, Stack, StackSpec

LABELS = {"speaker": ["ann", "bob", "eve"], "text": ["yes", "no"]}


def network(
    books: int = 2,
    size: int = 5,
    *,
    layers: int = 4,
    kernel: int = 2,
    untold: float = 0.3,
    dropout: float = 0.3,
    context: ContextSpec | None = None,
) -> CodeNetwork:
    """Random weights, float64, in evaluation mode."""
    torch.manual_seed(books * 100 + size)
    stack = StackSpec(
        layers=layers,
        dilation_cycle=3,
        kernel_size=kernel,
        residual_channels=8,
        gate_channels=8,
        skip_channels=8,
        hidden_channels=12,
        context=context,
    )
    known = {name: [*values, "untold"] for name, values in LABELS.items()}
    conditioner = ConditionerSpec(channels=6, categorical=("speaker", "text")).build(0, 1, known)
    embedding, place = torch.nn.Embedding(books * (size + 1), 8), torch.nn.Embedding(books, 8)
    net = CodeNetwork(
        embedding,
        place,
        Stack(stack, size + 1, 6),
        conditioner,
        label_dropout=untold,
        token_dropout=dropout,
    )
    for p in net.stack.parameters():
        p.data.mul_(1.5)
    return net.double().eval()


def ids_of(speaker: Tensor, text: Tensor) -> dict[str, Tensor]:
    return {"speaker": speaker, "text": text}


def codes_of(net: CodeNetwork, batch: int = 3, frames: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(
        net.size, (batch, net.books, frames), generator=torch.Generator().manual_seed(seed)
    )


def one(net: CodeNetwork, codes: Tensor) -> float:
    """ln p of one whole utterance (Q, F), its end included."""
    ended = net.with_end(codes[None], torch.tensor([codes.shape[1]]))
    return net(ended.symbols, {}, ended.mask).sum().item()


@pytest.mark.parametrize("books", [1, 2, 3])
def test_a_code_changes_what_comes_after_it_and_nothing_else(books: int) -> None:
    net = network(books)
    codes, labels = codes_of(net), ids_of(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1]))
    before = net(codes, labels).transpose(1, 2).flatten(1)
    for frame, book in itertools.product(range(3), range(books)):
        changed = codes.clone()
        changed[:, book, frame] = (changed[:, book, frame] + 1) % net.size
        after = net(changed, labels).transpose(1, 2).flatten(1)
        place = frame * books + book
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place] != before[:, place]).all()
        assert (after[:, place + 1] != before[:, place + 1]).all(), (
            "the next book, or the next frame, must hear it"
        )


@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("ends", [True, False])
def test_one_pass_is_step_by_step(books: int, ends: bool) -> None:
    net = network(books)
    codes, labels = (
        codes_of(net, frames=12),
        ids_of(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1])),
    )
    whole = net(codes, labels, ends=ends).transpose(1, 2).flatten(1)
    stream, last = CodeStream(net, labels, 3, ends=ends), torch.full((3,), net.end)
    for place, code in enumerate(codes.transpose(1, 2).flatten(1).unbind(1)):
        log_p = stream.next(last)
        assert torch.allclose(log_p.exp().sum(1), torch.ones(3).double(), atol=1e-12)
        assert torch.allclose(
            log_p.gather(1, code[:, None])[:, 0], whole[:, place], atol=1e-9, rtol=0
        )
        last = code


@pytest.mark.parametrize("books", [1, 2])
def test_the_probabilities_of_all_utterances_sum_to_one(books: int) -> None:
    """All utterances of one and of two frames, and all beginnings of three frames, whatever
    follows.
    """
    net = network(books, size=2, untold=0.5)
    total = 0.0
    for frames in (1, 2, 3):
        for flat in itertools.product(range(2), repeat=books * frames):
            codes = torch.tensor(flat).view(frames, books).t()
            total += (
                torch.tensor(one(net, codes) if frames < 3 else net(codes[None], {}).sum().item())
                .exp()
                .item()
            )
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_end_has_no_mass_inside_a_frame_nor_before_the_first_nor_where_it_is_known() -> None:
    net = network(2)
    projected = net.project({}, 1)
    for last, book, ends, mass in (
        (net.end, 0, True, 0),
        (1, 1, True, 0),
        (1, 0, False, 0),
        (1, 0, True, 1),
    ):
        log_p = net.log_probs(torch.tensor([[last]]), torch.tensor([[book]]), projected, ends=ends)
        assert (log_p[0, net.end, 0].exp() > 0) == mass


@pytest.mark.parametrize("books", [1, 2])
def test_draws_follow_the_law(books: int) -> None:
    """Counts of whole utterances against their probabilities, by chi-square."""
    net, draws, frames = network(books, size=2, untold=0.5), 2000, 3
    counts: dict[tuple[int, ...], int] = {}
    for codes, _ in sample_codes(net, {}, frames, streams=torch.arange(draws)):
        key = tuple(codes.t().flatten().tolist())
        counts[key] = counts.get(key, 0) + 1
    likely = {}
    for key in counts:
        codes = torch.tensor(key).view(-1, books).t()
        cut = codes.shape[1] == frames  # drawn to the limit: whatever would have followed
        likely[key] = (
            draws
            * torch.tensor(net(codes[None], {}).sum().item() if cut else one(net, codes))
            .exp()
            .item()
        )
    kept = [key for key in counts if likely[key] > 5]
    distance = sum((counts[key] - likely[key]) ** 2 / likely[key] for key in kept)
    assert len(kept) > 5
    assert distance < len(kept) + 4 * (2 * len(kept)) ** 0.5


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("books", [1, 2])
def test_a_seed_gives_the_same_codes_alone_and_in_a_batch(books: int, stop: bool) -> None:
    net = network(books)
    speaker, text = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 0, 1])

    def drawn(seed: int, which: slice) -> list[Tensor]:
        labels, streams = ids_of(speaker[which], text[which]), torch.arange(4)[which]
        made = sample_codes(net, labels, 9, streams=streams, stop=stop, seed=seed)
        return [codes for codes, _ in made]

    together = drawn(3, slice(4))
    for i, codes in enumerate(together):
        assert torch.equal(drawn(3, slice(i, i + 1))[0], codes)
    assert len({len(codes[0]) for codes in together}) > 1 or not stop, (
        "utterances end by themselves"
    )
    assert all(codes.shape == (books, 9) for codes in together) or stop
    assert all((codes >= 0).all() and (codes < net.size).all() for codes in together)
    others = drawn(4, slice(4))
    assert not all(torch.equal(a, b) for a, b in zip(together, others, strict=True)), (
        "another seed, other codes"
    )


def test_running_on_is_one_utterance_after_another() -> None:
    """Run-on codes cut at the ends that were drawn: each piece is what a fresh stream would
    hear.
    """
    net = network(2)
    projected = CodeStream(net, {}, 2)
    fresh = CodeStream(net, {}, 2)
    symbols = codes_of(net, batch=2, frames=3).transpose(1, 2).flatten(1)
    projected.next(torch.tensor([net.end, net.end]))
    for symbol in symbols.unbind(1):
        projected.next(symbol)
    first = torch.tensor([net.end, 1])  # item 0 starts again, item 1 goes on
    again, new = projected.next(first), fresh.next(torch.full((2,), net.end))
    assert torch.allclose(again[0], new[0], atol=1e-12)
    assert not torch.allclose(again[1], new[1], atol=1e-3)


def test_running_on_forgets_the_context_of_the_utterance_before() -> None:
    net = network(2, context=ContextSpec(stride=4, layers=2))
    used, fresh = CodeStream(net, {}), CodeStream(net, {})
    for symbol in codes_of(net, batch=1, frames=5).transpose(1, 2).flatten().split(1):
        used.next(symbol)
    for symbol in (torch.tensor([net.end]), *codes_of(net, batch=1).flatten().split(1)):
        torch.testing.assert_close(used.next(symbol), fresh.next(symbol))


def test_utterances_that_run_on_do_not_depend_on_the_others_of_their_batch() -> None:
    net = network(2, context=ContextSpec(stride=4, layers=2))
    together = sample_codes(net, {}, 40, streams=torch.arange(3), stop=False)
    for i, (codes, _) in enumerate(together):
        alone = sample_codes(net, {}, 40, streams=torch.tensor([i]), stop=False)
        assert torch.equal(codes, alone[0][0])


def test_padding_changes_nothing() -> None:
    net = network(2)
    codes, lengths = codes_of(net, frames=8), torch.tensor([8, 3, 5])
    ended = net.with_end(codes, lengths)
    assert ended.mask.sum().item() == 2 * 16 + 3
    together = net(ended.symbols, {}, ended.mask).sum((1, 2))
    for i, n in enumerate(lengths.tolist()):
        assert together[i].item() == pytest.approx(one(net, codes[i, :, :n]), abs=1e-9)


def test_a_piece_of_an_utterance_depends_on_the_code_before_it() -> None:
    net = network(2, layers=1, kernel=1)  # depends on one symbol
    codes = codes_of(net)
    whole = net(codes, {})
    piece = net(codes[..., 3:], {}, before=codes[:, -1, 2])
    assert torch.allclose(whole[..., 3:], piece, atol=1e-12)
    assert not torch.allclose(whole[..., 3:], net(codes[..., 3:], {}), atol=1e-3)


def test_labels_condition_the_prior_given_or_not() -> None:
    net = network()
    codes = codes_of(net, batch=1)
    found = [
        {},
        ids_of(torch.tensor([0]), torch.tensor([0])),
        ids_of(torch.tensor([0]), torch.tensor([1])),
        {"speaker": torch.tensor([0])},
    ]
    costs = [net(codes, labels).sum().item() for labels in found]
    assert len({round(cost, 9) for cost in costs}) == len(costs)
    strict = network(untold=0.0)
    with pytest.raises(UserInputError, match="text: not given"):
        strict(codes, {"speaker": torch.tensor([0])})
    torch.manual_seed(0)
    ids = net.train().label_ids(ids_of(torch.zeros(5000).long(), torch.zeros(5000).long()), 5000)
    left_out = [
        (ids[name] == len(values)).double().mean().item() for name, values in LABELS.items()
    ]
    assert left_out == pytest.approx([0.3, 0.3], abs=0.03)


def test_gradients_reach_every_parameter() -> None:
    net = network(2, dropout=0.0).train()
    ended = net.with_end(codes_of(net, batch=64), torch.full((64,), 6))
    torch.manual_seed(0)
    labels = ids_of(torch.arange(64) % 3, torch.arange(64) % 2)
    (-net(ended.symbols, labels, ended.mask)).sum().backward()
    for name, p in net.named_parameters():
        rows = p.grad.flatten(1).abs().sum(1) if p.ndim > 1 else p.grad.abs()
        # END is an input of the last book alone
        silent = {net.size} if name == "input_embedding.weight" else set()
        assert {i for i, g in enumerate(rows.tolist()) if g == 0} == silent, name


def test_temperature_and_top_p() -> None:
    log_p = torch.tensor([[0.5, 0.1, 0.25, 0.15]]).double().log().expand(1000, 4)
    u = (torch.arange(1000) + 0.5) / 1000

    def share(**how: float) -> list[float]:
        return (torch.bincount(choose(log_p, u, **how), minlength=4) / 1000).tolist()

    assert share() == pytest.approx([0.5, 0.1, 0.25, 0.15], abs=2e-3)
    assert share(temperature=0.5) == pytest.approx(
        [p * p / 0.345 for p in (0.5, 0.1, 0.25, 0.15)], abs=2e-3
    )
    assert share(temperature=1e-3) == share(temperature=0.0) == [1, 0, 0, 0]
    assert share(top_p=0.7) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=2e-3)
    assert share(top_p=1e-6) == [1, 0, 0, 0]


def test_the_spec_builds_codec_and_network() -> None:
    codec = VQVAESpec(
        encoder=FrameEncoderSpec(channels=16),
        quantizer=EMAQuantizerSpec(codebook_size=12),
        decoder=WaveNetSpec(
            network=StackSpec(
                layers=2, residual_channels=4, gate_channels=4, skip_channels=4, hidden_channels=4
            ),
            conditioner=ConditionerSpec(channels=4),
        ),
    )
    spec = PriorSpec(
        network=StackSpec(
            layers=3, residual_channels=4, gate_channels=4, skip_channels=4, hidden_channels=4
        ),
        codec=codec,
    )
    model = spec.build(8000, LABELS)
    assert (model.network.books, model.network.size) == (1, 12)
    assert model.receptive_field == model.network.stack.receptive_field * model.hop
    assert not any(p.requires_grad for p in model.codec.parameters())
    assert model.network.conditioner.embeddings["speaker"].num_embeddings == 4
    exact = model.network.exact()
    codes = torch.randint(12, (2, 1, 7))
    assert exact(codes, {}).dtype == torch.float64
    assert torch.allclose(exact(codes, {}).float(), model.network.eval()(codes, {}), atol=1e-5)
