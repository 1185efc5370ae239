"""Conditions reach the networks normalised and at the rate of the signal, and no class is a class of its own."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from audiodiff.networks.conditioning import (
    FrameConditioner,
    LabelEmbedding,
    MelNormalisation,
    TransposedUpsampler,
    UpsampledConditioner,
)


def test_a_mel_is_brought_to_zero_mean_and_unit_variance_per_bin_by_stored_statistics():
    mel = torch.randn(4, 5, 300, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 6.0).view(5, 1) - 7
    normalise = MelNormalisation(5)
    assert torch.equal(normalise(mel), mel.mT)  # until statistics are measured
    normalise.mean.copy_(mel.mean((0, 2)))
    normalise.deviation.copy_(mel.std((0, 2)))
    features = normalise(mel)
    assert features.shape == (4, 300, 5)
    assert_close(features.mean((0, 1)), torch.zeros(5), rtol=0, atol=1e-5)
    assert_close(features.std((0, 1)), torch.ones(5), rtol=1e-5, atol=0)


def test_statistics_are_saved_with_the_weights_and_not_trained():
    normalise = MelNormalisation(5)
    assert set(normalise.state_dict()) == {"mean", "deviation"}
    assert list(normalise.parameters()) == []


def test_every_class_and_no_class_have_vectors_of_their_own():
    torch.manual_seed(0)
    embedding = LabelEmbedding(3, 8)
    vectors = torch.cat([embedding(torch.arange(3)), embedding(None)])
    assert vectors.shape == (4, 8)
    assert (torch.cdist(vectors, vectors) + torch.eye(4)).min() > 0.1


def test_none_means_no_class_for_every_clip():
    embedding = LabelEmbedding(3, 8)
    assert torch.equal(embedding(None).expand(4, -1), embedding(torch.full((4,), 3)))


def test_the_vector_of_no_class_can_be_trained():
    embedding = LabelEmbedding(3, 8)
    embedding(None).sum().backward()
    assert embedding.table.weight.grad.abs().sum(1).nonzero().tolist() == [[3]]


# --- from frames to positions -----------------------------------------------------------------------------------------

N_MELS, CHANNELS, LAYERS, FRAMES = 5, 3, 4, 6


def conditioner(kind, factors=(4, 2)):
    torch.manual_seed(0)
    if kind == "repeat":
        return FrameConditioner(N_MELS, LAYERS * [2 * CHANNELS]).double()
    per_layer = kind == "transposed-per-layer"
    return UpsampledConditioner(N_MELS, LAYERS * [2 * CHANNELS], factors=factors, per_layer=per_layer).double()


def frames(n=FRAMES):
    return torch.randn(2, n, N_MELS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def for_all_layers(built, features, n_positions):
    encoded = built.encode(features)
    return torch.stack([built.for_layer(part, i, n_positions) for i, part in enumerate(built.split(encoded))])


every_conditioner = pytest.mark.parametrize("kind", ["repeat", "transposed", "transposed-per-layer"])


def transposed_convolution(plane, kernel, bias, stride):
    """Add up a kernel scaled by every input `(rows, columns)`, as its definition says; the borders are cut off."""
    n_rows, n_columns = plane.shape
    height, width = kernel.shape
    whole = np.full((n_rows - 1 + height, (n_columns - 1) * stride + width), bias)
    for row in range(n_rows):
        for column in range(n_columns):
            whole[row : row + height, column * stride : column * stride + width] += plane[row, column] * kernel
    return whole[1:-1, stride // 2 : whole.shape[1] - stride // 2]


@pytest.mark.parametrize("factors", [(4, 2), (2, 2, 2), (8,)])
def test_an_upsampler_is_transposed_convolutions_over_bins_and_time_with_leaky_relus(factors):
    torch.manual_seed(0)
    upsample = TransposedUpsampler(factors).double()
    for stage in upsample.stages:
        torch.nn.init.normal_(stage.bias)
    features = frames()
    made = upsample(features)
    assert made.shape == (2, FRAMES * math.prod(factors), N_MELS)
    plane = features[1].T.numpy()
    for stage, factor in zip(upsample.stages, factors, strict=True):
        kernel, bias = stage.weight[0, 0].detach().numpy(), stage.bias.item()
        plane = transposed_convolution(plane, kernel, bias, factor)
        plane = np.where(plane < 0, 0.4 * plane, plane)
    assert (plane < 0).any()
    assert (plane > 0).any()
    assert_close(made[1].detach(), torch.from_numpy(plane.T))


def test_an_upsampler_starts_by_keeping_the_scale_of_what_it_is_given():
    torch.manual_seed(0)
    features = torch.randn(1, 50, 80)
    scales = [float(TransposedUpsampler((4, 4))(features).detach().square().mean()) for _ in range(200)]
    assert np.median(scales) == pytest.approx(1.0, abs=0.5)


@every_conditioner
def test_every_layer_has_a_condition_of_its_own_at_the_rate_of_the_signal(kind):
    made = for_all_layers(conditioner(kind), frames(), FRAMES * 8)
    assert made.shape == (LAYERS, 2, FRAMES * 8, 2 * CHANNELS)
    for index in range(1, LAYERS):
        assert (made[index] - made[0]).abs().max() > 0.01


def test_repeated_frames_are_projected_at_frame_rate():
    built, features = conditioner("repeat"), frames()
    made = for_all_layers(built, features, FRAMES * 8)
    for index, kernel in enumerate(built.weight.chunk(LAYERS)):
        expected = torch.einsum("bfm,cm->bfc", features.repeat_interleave(8, dim=1), kernel)
        assert_close(made[index], expected)
    assert list(built.state_dict()) == ["weight"]


@pytest.mark.parametrize("per_layer", [False, True])
def test_upsampled_frames_are_projected_by_the_layer_s_own_matrix(per_layer):
    built, features = conditioner("transposed-per-layer" if per_layer else "transposed"), frames()
    encoded = built.encode(features)
    assert encoded.shape == (2, FRAMES * 8, N_MELS * (LAYERS if per_layer else 1))
    assert len(built.upsamplers) == (LAYERS if per_layer else 1)
    made = for_all_layers(built, features, FRAMES * 8)
    for index, projection in enumerate(built.projections):
        upsampled = built.upsamplers[index if per_layer else 0](features)
        assert_close(built.split(encoded)[index], upsampled)
        assert_close(made[index], upsampled @ projection.weight.T + projection.bias)


@every_conditioner
@pytest.mark.parametrize("factors", [(4, 2), (2, 2, 2), (8,)])
def test_an_encoded_position_depends_on_as_many_frames_as_it_says(kind, factors):
    built = conditioner(kind, factors)
    jacobian = torch.autograd.functional.jacobian(lambda features: built.encode(features).sum(2)[0], frames()[:1])
    n_frames = FRAMES * built.positions_per_frame
    sensitive = (jacobian[:, 0].abs().sum(2) > 0).nonzero()
    distance = (sensitive[:, 0] // built.positions_per_frame - sensitive[:, 1]).abs()
    assert len(jacobian) == n_frames
    assert int(distance.max()) == built.context_frames


@every_conditioner
def test_a_piece_with_its_context_is_encoded_as_in_the_whole(kind):
    built, features = conditioner(kind), frames(12)
    context, per_frame = built.context_frames, built.positions_per_frame
    whole = built.encode(features)
    piece = built.encode(features[:, 4 - context : 8 + context])
    inner = slice(context * per_frame, piece.shape[1] - context * per_frame)
    assert_close(piece[:, inner], whole[:, 4 * per_frame : 8 * per_frame])


def test_a_condition_of_another_length_than_the_signal_is_refused():
    built = conditioner("transposed")
    with pytest.raises(ValueError, match="condition has 48 positions, the signal 40"):
        built.for_layer(built.encode(frames()), 0, 40)
