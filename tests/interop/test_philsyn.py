"""What is particular to philsyn: what is published of its models, and what of its form cannot be brought here."""

import logging

import pytest
import torch

from audiodiff.config import MEL_CONVENTIONS
from audiodiff.errors import ModelError
from audiodiff.interop import CheckpointMetadata, convert_state_dict, philsyn


@pytest.mark.parametrize(
    ("options", "rate", "cycle", "last", "schedule"),
    [
        ({"channels": 64, "layers": 30, "n_mels": 80}, 22050, 10, 0.05, ("diffwave", 6)),
        ({"channels": 128, "layers": 30, "n_mels": 80}, 22050, 10, 0.02, ("diffwave_large", 6)),
        ({"channels": 256, "layers": 36, "n_mels": 0}, 16000, 12, 0.02, ("diffwave_200", 200)),
    ],
    ids=["vocoder-64", "vocoder-128", "generator-256"],
)
def test_the_published_models_need_nothing_but_their_file(options, rate, cycle, last, schedule, published, caplog):
    tensors = published.build("philsyn", **options, cycle=1).state_dict()
    with caplog.at_level(logging.INFO, "audiodiff"):
        network, config = convert_state_dict(tensors)
    assert (config.sample_rate, config.network.dilation_cycle) == (rate, cycle)
    assert (config.network.embedding.betas[-1], len(config.network.embedding.betas)) == (
        pytest.approx(last),
        200 if last == 0.02 else 50,
    )
    assert (config.synthesis.schedule, config.synthesis.steps) == schedule
    assert [record.getMessage().split(": ")[0].split(" say ")[1] for record in caplog.records] == [
        "sample_rate",
        "dilation_cycle",
        "betas",
    ]
    if options["n_mels"]:
        convention = MEL_CONVENTIONS["tacotron2"]
        assert config.mel == convention.model_copy(update={"pairing": "frame"})
        assert config.clip_seconds is None
    else:
        assert (config.mel, config.clip_seconds) == (None, 1.0)
    assert network.stack.layers[-1].dilation == 2 ** ((options["layers"] - 1) % cycle)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (CheckpointMetadata(dilation_cycle=3), "does not say betas, and no published model has its size. Give --betas"),
        (
            CheckpointMetadata(betas=(0.1, 0.2)),
            "does not say dilation_cycle, .* Give --dilation-cycle",
        ),
    ],
)
def test_networks_of_other_sizes_need_more_to_be_said(given, said, published):
    with pytest.raises(ModelError, match=said):
        convert_state_dict(published.build("philsyn").state_dict(), metadata=given)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("residual_layer.fc_t2.weight", (256, 512), r"fc_t2.weight has shape \(256, 512\), but \(512, 512\) follows"),
        ("final_conv.0.conv.weight_v", (6, 6, 1), r"weight_v has shape \(6, 6, 1\), but \(8, 8, 1\) follows"),
        ("init_conv.0.conv.weight_v", (8, 2, 1), r"\(8, 2, 1\), but \(8, 1, 1\) follows"),
    ],
    ids=["embedding narrows", "skips narrower than channels", "stereo"],
)
def test_networks_of_another_form_are_refused(name, shape, said, published):
    tensors = published.build("philsyn").state_dict() | {name: torch.ones(shape)}
    with pytest.raises(ModelError, match=said):
        convert_state_dict(tensors, metadata=CheckpointMetadata(22050, 3, (0.1, 0.2)))


def test_what_earlier_layers_leave_in_the_stream_is_folded_into_the_level_of_later_ones():
    generator = torch.Generator().manual_seed(0)
    levels = [(torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)) for _ in range(5)]
    residuals, embedding = torch.randn(5, 3, generator=generator), torch.randn(4, generator=generator)
    in_place, seen = torch.ones(3), []
    for (weight, bias), residual in zip(levels, residuals, strict=True):
        in_place = in_place + weight @ embedding + bias
        seen.append(in_place)
        in_place = (in_place + residual) / 2**0.5
    stream = torch.ones(3)
    for (weight, bias), residual, expected in zip(philsyn.lasting(levels), residuals, seen, strict=True):
        torch.testing.assert_close(stream + weight @ embedding + bias, expected)
        stream = (stream + residual) / 2**0.5
