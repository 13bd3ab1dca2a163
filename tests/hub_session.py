"""What a user of a hub does, in a process of its own, since huggingface_hub reads its settings as
it is imported: `python hub_session.py MODEL METRICS` -> results as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import torch
from huggingface_hub import ModelCard

import vqwave
from vqwave.decode.sampling import Sampling

PLAIN = Sampling(backend="reference", seed=1)
WAVE = 0.1 * torch.sin(torch.arange(1000) * (0.05 + torch.arange(1000) * 2e-4))


def same(first: vqwave.SpeechModel, second: vqwave.SpeechModel) -> bool:
    """Whether two models have the same codes and the same waves, bit for bit."""
    codes = first.encode(WAVE), second.encode(WAVE)
    waves = [
        model.decode(coded, "ann", sampling=PLAIN)
        for model, coded in zip((first, second), codes, strict=True)
    ]
    return torch.equal(codes[0].codes, codes[1].codes) and torch.equal(*waves)


def refusal(name: str) -> str:
    try:
        vqwave.load(name)
    except vqwave.UserInputError as error:
        return str(error)
    return "loaded"


def online(model: vqwave.SpeechModel, metrics: str) -> dict[str, object]:
    url = model.push_to_hub("ann/tiny", license="cc0-1.0", datasets=["ann/digits"], metrics=metrics)
    loaded = vqwave.load("hf://ann/tiny")
    commit = url.rpartition("/")[2]
    branch = loaded.push_to_hub("hf://ann/tiny@next", message="Again")
    card = ModelCard.load("ann/tiny")
    card.validate()
    data = card.data
    return {
        "pushed": same(model, loaded),
        "pinned": same(model, vqwave.SpeechModel.from_pretrained("ann/tiny", revision=commit)),
        "path": same(model, vqwave.load(Path("hf://ann/tiny"))),
        "branch": same(model, vqwave.load("hf://ann/tiny@next")),
        "other commit": branch.rpartition("/")[2] != commit,
        "license": data.license,
        "datasets": data.datasets,
        "figures": {each.metric_type: each.metric_value for each in data.eval_results},
        "page": card.content,
        "files": sorted(path.name for path in loaded.folder.iterdir()),
        "missing": refusal("hf://ann/nothing"),
        "revision": refusal("hf://ann/tiny@never"),
        "pickle": refusal("hf://ann/pickle"),
        "too large": refusal("hf://ann/large"),
        "no commit": refusal("hf://ann"),
    }


def offline(model: vqwave.SpeechModel) -> dict[str, object]:
    """The same after the hub is gone."""
    with urlopen(os.environ["HF_ENDPOINT"] + "/stop") as answer:
        answer.read()
    time.sleep(0.2)
    return {
        "cached": same(model, vqwave.load("hf://ann/tiny")),
        "not cached": refusal("hf://ann/other"),
    }


if __name__ == "__main__":
    folder, metrics = sys.argv[1:]
    model = vqwave.load(folder)
    print(json.dumps(online(model, metrics) | offline(model)))
