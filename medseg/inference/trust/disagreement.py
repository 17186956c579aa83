"""How far folds and mirrored answers agree among themselves: the mean Dice of every two of them.

Source: agreement of ensemble members as a predictor of quality, Roy et al. 2019 (there of samples of one network).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.inference.tiles import line_weights
from medseg.planning.plan import Centre, Plan

AT_ONCE = 2**22  # votes (voxels times outputs) that are counted together


class Ballot:
    """What each member says of some tiles, one member after the other: its winner at each voxel, or its regions."""

    def __init__(self, regions: bool) -> None:
        self.regions, self.members = regions, 0
        self.winners: list[Tensor] = []
        self.votes: Tensor | None = None

    def vote(self, logits_BLXYZ: Tensor) -> None:
        """Add a member's answer."""
        self.members += 1
        if not self.regions:
            self.winners.append(logits_BLXYZ.argmax(1).reshape(-1).to(torch.int16))
            return
        above = (logits_BLXYZ > 0).movedim(1, 0).flatten(1).to(torch.int16)  # (L, voxels)
        self.votes = above if self.votes is None else self.votes + above


class Disagreement:
    """Votes of the members on every voxel of every tile, weighted as the window blends them.

    Where c of M members find a structure, M (M - 1) ordered pairs of them have c (c - 1) common voxels and (M - 1) c
    voxels each: the sums of both give the mean Dice of all pairs without forming a pair. Tiles are counted as they
    come, so a voxel in several tiles counts in each of them. Nothing but counts is kept.
    """

    def __init__(self, plan: Plan, patch: Sequence[int], centre: Centre = "middle") -> None:
        self._regions = bool(plan.regions)
        self._names = [one.name for one in plan.regions or plan.structures]
        self._common = torch.zeros(len(self._names), dtype=torch.float64)
        self._sizes = torch.zeros(len(self._names), dtype=torch.float64)
        weights = np.einsum("x,y,z->xyz", *(line_weights(n, centre) for n in patch))
        self._weights = torch.from_numpy(weights).double().reshape(-1)

    def ballot(self) -> Ballot:
        """For the members' answers to tiles that go together."""
        return Ballot(self._regions)

    @torch.inference_mode()
    def count(self, ballot: Ballot) -> None:
        """Add the votes of a ballot that all members have taken part in."""
        members = ballot.members
        if members < 2:
            return
        if ballot.votes is not None:
            votes = ballot.votes.double()
            self._add(votes, self._weights_of(votes), members)
            return
        winners = torch.stack(ballot.winners).long()  # (M, voxels)
        weights = self._weights_of(winners)
        unanimous = (winners == winners[0]).all(0)
        agreed = torch.zeros(len(self._names) + 1, dtype=torch.float64, device=winners.device)
        agreed.index_add_(0, winners[0][unanimous], weights[unanimous])
        self._common += members * (members - 1) * agreed[1:].cpu()
        self._sizes += members * (members - 1) * agreed[1:].cpu()
        winners, weights = winners[:, ~unanimous], weights[~unanimous]
        step = max(1, AT_ONCE // len(agreed))
        for piece in (slice(at, at + step) for at in range(0, winners.shape[1], step)):
            here = winners[:, piece]
            votes = torch.zeros(len(agreed), here.shape[1], dtype=torch.float64, device=here.device)
            votes.scatter_add_(0, here, torch.ones_like(here, dtype=torch.float64))
            self._add(votes[1:], weights[piece], members)

    def _weights_of(self, voted: Tensor) -> Tensor:
        """The weights of the voxels (..., voxels) of the tiles that were voted on."""
        return self._weights.to(voted.device).repeat(voted.shape[-1] // len(self._weights))

    def finished(self) -> dict[str, float]:
        """Mean Dice of every two members, by structure; nothing of a structure that no member found, or of one member
        alone.
        """
        found = zip(self._names, self._common.tolist(), self._sizes.tolist(), strict=True)
        return {name: round(common / sizes, 6) for name, common, sizes in found if sizes > 0}

    def _add(self, votes_KN: Tensor, weights_N: Tensor, members: int) -> None:
        """Votes (structures, voxels) that each structure has got."""
        self._common += (votes_KN * (votes_KN - 1) @ weights_N).cpu()
        self._sizes += ((members - 1) * votes_KN @ weights_N).cpu()
