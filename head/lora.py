"""Low-rank adapters (Hu et al. 2021) in the blocks of a CLIP: the only module that imports peft.

Each adapted matrix W becomes W + B A, with B zeros at the start; W and all else of the tower are
held. Adapted are the projections of queries, keys and values, and both matrices of the MLP. The
attention's output projection is not: torch's attention reads its weight and never calls it
(docs/adr/0032). Knows nothing of heads.
"""

from torch import nn

from muse.errors import UsageError

_MLP = r".*\.mlp\.(c_fc|c_proj)"
_ATTENTION = "attn.in_proj_weight"


def add_adapters(towers: nn.Module, *, rank: int) -> None:
    """Puts adapters into every block, from the global random state, and holds all other weights.

    Args:
        towers: Its blocks are open_clip's.
        rank: Columns of B, at least 1.

    Raises:
        UsageError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(
            f"lora {rank}: peft can't be imported ({error}). Install it with "
            "`pip install 'muse-retrieval[lora]'`, or leave --lora out."
        ) from error
    # alpha = rank: no factor on B A, so that weights alone say what an adapter does.
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=_MLP, target_parameters=[_ATTENTION]
    )
    inject_adapter_in_model(config, towers)


def merge_adapters(towers: nn.Module) -> None:
    """Adds every adapter to its matrix: the same function, at the cost of the tower alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in [*towers.modules()]:
        if isinstance(module, BaseTunerLayer):
            module.merge()
