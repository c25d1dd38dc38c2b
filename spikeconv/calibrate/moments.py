"""Adds up what a calibration wants to know of the inputs of some linears (see `spikeconv.weights.hessian`).

A token's weight is w = min(1, 3 · median ‖û‖ / ‖û‖), and the same with u - û and r where they are added up, times its
importance (`importance`) if that is asked for. The first token of a text, whose hidden state is hundreds of times the
others', would otherwise be all that the sums know of.
"""

import torch
from torch import Tensor

from spikeconv.weights import Statistics

__all__ = ["Moments", "token_weights"]

CAP = 3.0
"""Largest norm of a token's vector, in medians."""
BLOCK = 512
"""Rows of H that are one product; what lies left of the diagonal block is not computed."""


class Moments:
    """Sums over batches of tokens, in float32; `compares` as it was given.

    Args:
        in_features: n.
        compares: also look at what the float network has in the place of the counts.
        out_features: of the residuals, or None: there are none.
    """

    def __init__(self, in_features: int, compares: bool, out_features: int | None = None) -> None:
        self.compares = compares
        self._hessian = torch.zeros(in_features, in_features)
        self._cross = torch.zeros(in_features, in_features) if compares else None
        self._residual = torch.zeros(in_features, out_features) if out_features else None
        self._weight = 0.0
        self._counts, self._errors = torch.zeros(in_features), torch.zeros(in_features)
        self._residuals = torch.zeros(out_features or 0)

    def add(
        self,
        decoded: Tensor,
        potential: Tensor | None = None,
        residual: Tensor | None = None,
        importance: Tensor | None = None,
    ) -> None:
        """Add tokens.

        Args:
            decoded: û [tokens, in] float32.
            potential: u [tokens, in] float32.
            residual: r [tokens, out] float32.
            importance: a [tokens] float32.
        """
        errors = None if self._cross is None or potential is None else potential - decoded
        lack = None if self._residual is None else residual
        w = token_weights(*(each for each in (decoded, errors, lack) if each is not None))
        w = w if importance is None else w * importance[:, None]
        counts = decoded * w
        for begin in range(0, counts.shape[1], BLOCK):
            self._hessian[begin : begin + BLOCK, begin:].addmm_(counts[:, begin : begin + BLOCK].mT, counts[:, begin:])
        self._weight += float(w.double().square().sum())
        self._counts += (counts * w).sum(0)
        if self._cross is not None and errors is not None:
            errors = errors.mul_(w)
            self._cross.addmm_(counts.mT, errors)
            self._errors += (errors * w).sum(0)
        if self._residual is not None and lack is not None:
            weighted = lack * w
            self._residual.addmm_(counts.mT, weighted)
            self._residuals += (weighted * w).sum(0)

    def statistics(self) -> Statistics:
        """The sums so far."""
        upper = self._hessian.triu()
        compares, residual = self._cross is not None, self._residual is not None
        return Statistics(
            upper + upper.triu(1).mT,
            self._cross,
            self._residual,
            self._weight,
            self._counts,
            self._errors if compares else None,
            self._residuals if residual else None,
        )


def token_weights(*vectors: Tensor) -> Tensor:
    """w [tokens, 1], at most 1, with which no token's vector [tokens, …] is longer than three median ones."""
    result = torch.ones(len(vectors[0]), 1, dtype=vectors[0].dtype)
    for each in vectors:
        norms = each.norm(dim=1, keepdim=True)
        cap = CAP * norms.median()
        result = torch.where(norms > cap, torch.minimum(result, cap / norms), result)
    return result
