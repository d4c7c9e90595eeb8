"""Whether two heads differ on the same queries by more than chance: a paired permutation test.

If the heads are alike, it is chance which of them did better on a video, and the sign of the
difference may as well be the other one (Fisher 1935; for retrieval, Smucker, Allan and Carterette
2007). The captions of a video keep one sign together. Knows nothing of heads or stores.
"""

# Legend: Q queries, G clusters of them, S statistics, b permutations of a block.

import numpy as np
import torch
from torch import Tensor

from muse.errors import UsageError
from muse.head.bootstrap import VALUES_AT_ONCE, clusters_of, sums_by_cluster

ROUNDING = 1e-9  # of the largest sum there can be: equal ones may be added in another order


def sign_flip_p_values(
    difference_QS: Tensor, cluster_Q: Tensor, *, num_permutations: int, seed: int
) -> Tensor:
    """Two-sided p values of the means' distance from 0, one a statistic.

    (1 + permutations at least as far from 0) / (1 + permutations), which is never 0 and never too
    small (Phipson and Smyth 2010).

    Args:
        difference_QS: (Q, S), the first head's statistics of each query minus the second's.
        cluster_Q: (Q,) int64, which keep one sign: for captions, the video of each.
        num_permutations: At least 100; the smallest p there can be is about 1 in this many.
        seed: Of the signs.

    Returns:
        (S,) float64 above 0, at most 1.

    Raises:
        MetricError: If there is only one cluster.
        UsageError: If there are too few permutations.
    """
    if num_permutations < 100:
        raise UsageError(
            f"permutations {num_permutations}: at least 100 are needed, 10000 are usual"
        )
    place_Q, num_clusters = clusters_of(cluster_Q)
    sum_GS = sums_by_cluster(difference_QS.double().cpu(), place_Q, num_clusters)
    least_S = sum_GS.sum(0).abs() - ROUNDING * sum_GS.abs().sum(0)
    generator = np.random.default_rng(seed)
    at_once = max(1, VALUES_AT_ONCE // num_clusters)
    num_as_far_S = torch.zeros(sum_GS.shape[1], dtype=torch.int64)
    for start in range(0, num_permutations, at_once):
        shape = (min(at_once, num_permutations - start), num_clusters)
        sign_bG = torch.from_numpy(generator.integers(2, size=shape, dtype=np.int8) * 2 - 1)
        num_as_far_S += ((sign_bG.double() @ sum_GS).abs() >= least_S).sum(0)
    return (1 + num_as_far_S.double()) / (1 + num_permutations)
