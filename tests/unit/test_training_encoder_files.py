"""A saved pretrained encoder is read back unchanged, and a damaged one is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crysatom.config import GraphSpec
from crysatom.training.encoder_files import (
    ENCODER,
    ENCODER_JSON,
    ENCODER_SAFETENSORS,
    PretrainedEncoder,
    load_encoder,
    save_encoder,
)
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.graph_crystals import batch_of, small
from tests.small_runs import one_thread, tiny  # noqa: F401


def encoder_of(**options: Any) -> PretrainedEncoder:
    config = tiny(**options)
    features = element_features(config.encoder.node_features)
    elements = torch.from_numpy(features.features), torch.from_numpy(features.atomic_numbers)
    return PretrainedEncoder.of(build(config, features).encoder, config.graph, *elements)


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Path:
    save_encoder(tmp_path / ENCODER, encoder_of(), {"data": "here"})
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"masked_atoms": "zero", "cutoff": 6.0}, {"objective": "context"}])
def test_an_encoder_that_is_read_back_is_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    written = encoder_of(**options)
    save_encoder(tmp_path / ENCODER, written, {"data": "here"})
    before = torch.random.get_rng_state()
    for folder in (tmp_path, tmp_path / ENCODER):
        read = load_encoder(folder)
        assert (read.digest, read.graph) == (written.digest, written.graph)
    assert torch.random.get_rng_state().equal(before), "reading changes no seed"
    batch = batch_of(small(8, 4), written.graph)
    one, two = (encoder.build() for encoder in (read, written))
    features = one.basis(batch.distance)
    assert one.unmasked(batch, features).equal(two.unmasked(batch, features))
    assert not one.training
    assert not any(p.requires_grad for p in one.parameters())
    content = json.loads((tmp_path / ENCODER / ENCODER_JSON).read_text())
    assert content["training"] == {"data": "here"}
    assert (tmp_path / ENCODER / ENCODER_SAFETENSORS).read_bytes()[:2] != b"PK", "a zip, as torch.save writes"


def test_other_encoders_have_other_digests() -> None:
    options: list[dict[str, Any]] = [{}, {"seed": 1}, {"embedding_dim": 9}, {"num_layers": 1}, {"ties": "truncate"}]
    assert len({encoder_of(**changed).digest for changed in options}) == len(options)
    assert encoder_of().digest == encoder_of().digest


def test_folders_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no pretrained encoder \(encoder/encoder\.json and .* finished"):
        load_encoder(tmp_path)


def test_damaged_encoders(saved: Path) -> None:
    file, note = saved / ENCODER / ENCODER_SAFETENSORS, saved / ENCODER / ENCODER_JSON
    whole, facts = file.read_bytes(), json.loads(note.read_text())
    file.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged encoder"):
        load_encoder(saved)
    file.write_bytes(whole)
    note.write_text(json.dumps({**facts, "width": 9}))
    with pytest.raises(ValueError, match="do not fit together"):
        load_encoder(saved)
    note.write_text(json.dumps({**facts, "format_version": 2}))
    with pytest.raises(ValueError, match="of format 2, this code reads 1"):
        load_encoder(saved)


def test_the_graphs_are_kept(saved: Path) -> None:
    assert load_encoder(saved).graph == GraphSpec()
