import pytest
import torch

from muse.head.mixers.choice import Identity, new_mixer
from muse.head.residual import ResMambaBlock


@pytest.mark.parametrize(("dim", "count"), [(512, 1_171_968), (768, 2_593_536)])
def test_parameter_counts_are_those_of_the_published_model(dim: int, count: int) -> None:
    with torch.device("meta"):
        mixer = new_mixer("bimamba-v2", dim, d_state=16, d_conv=4, expand=1)
        block = ResMambaBlock(dim, mixer, dropout=0.1)
    assert sum(parameter.numel() for parameter in block.parameters()) == count


def test_a_gated_block_adds_the_gate_of_its_mixer() -> None:
    block, tokens_BLD = ResMambaBlock(3, Identity(), dropout=0.0), torch.randn(1, 2, 3)
    assert torch.equal(block(tokens_BLD), tokens_BLD)  # the gate is closed
    torch.nn.init.constant_(block.gate.weight, 0.5)
    wanted_BLD = tokens_BLD + 0.5 * block.norm(tokens_BLD).sum(-1, keepdim=True)
    torch.testing.assert_close(block(tokens_BLD), wanted_BLD.expand_as(tokens_BLD))


def test_a_plain_block_has_no_gate_and_one_without_residual_no_input() -> None:
    tokens_BLD = torch.randn(1, 2, 3)
    plain = ResMambaBlock(3, Identity(), dropout=0.0, residual="plain")
    alone = ResMambaBlock(3, Identity(), dropout=0.0, residual="none")
    torch.testing.assert_close(plain(tokens_BLD), tokens_BLD + plain.norm(tokens_BLD))
    torch.testing.assert_close(alone(tokens_BLD), alone.norm(tokens_BLD))
    for block in (plain, alone):
        assert not [name for name, _ in block.named_parameters() if "gate" in name]
