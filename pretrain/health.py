"""The health of a pretraining without labels, as its embeddings show it."""

import torch
from torch.nn import functional as F

# Measured on the demo's source: autoencoders that a learning rate of 0.03 or 0.3 made collapse have a spread of up to
# 2e-4 in bfloat16 and 3e-5 in float32, healthy ones 0.2, and at least 0.015 in their first batches. Embeddings on a
# line have an effective rank of 1, or somewhat more if the line bends; healthy ones 20 to 80.
LEAST_SPREAD = 0.002
LEAST_RANK = 2.0
LEAST_VIEWS = 8


def spread(features: torch.Tensor) -> float:
    """Root mean square distance of the unit-length features from their mean, in [0, 1]; 0 if all views look alike.

    Parameters
    ----------
    features : tensor of shape (views, d)
    """
    return _centred(features).square().sum(dim=1).mean().sqrt().item()


def effective_rank(features: torch.Tensor) -> float:
    """Exponential of the entropy of the normalised singular values (Roy & Vetterli 2007), between 1 and d.

    The singular values are those of the unit-length features minus their mean: the effective rank is the number of
    directions in which images differ.

    Parameters
    ----------
    features : tensor of shape (views, d)
    """
    values = torch.linalg.svdvals(_centred(features))
    if not values.sum() > 0:
        return 1.0
    return torch.special.entr(values / values.sum()).sum().exp().item()


def recall_at_1(first: torch.Tensor, second: torch.Tensor, cases: torch.Tensor) -> float:
    """Share of first crops whose nearest second crop is of the same case, in [0, 1].

    Distances are those by which cases are picked: features are standardised and of unit length.

    Parameters
    ----------
    first, second : tensors of shape (views, d)
        Features of two random crops per view.
    cases : tensor of shape (views,)
        The case of every view.
    """
    both, cases = _double(torch.cat([first, second])), cases.cpu()
    both = F.normalize((both - both.mean(dim=0)) / both.std(dim=0).clamp(min=1e-12), dim=1)
    nearest = (both[: len(first)] @ both[len(first) :].T).argmax(dim=1)
    return (cases[nearest] == cases).double().mean().item()


def _centred(features: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(_double(features), dim=1)
    return unit - unit.mean(dim=0)


def _double(features: torch.Tensor) -> torch.Tensor:
    return features.cpu().double()  # in this order: mps has no float64


def embedding_health(first: torch.Tensor, second: torch.Tensor, cases: torch.Tensor) -> dict[str, float]:
    """`spread` and `effective_rank` of the first crops and `recall_at_1` of both; parameters as there.

    The rank is left out below ``LEAST_VIEWS`` views: so few views span too few directions. The spread is left out of a
    single view, which has none.
    """
    health = {"recall_at_1": recall_at_1(first, second, cases)}
    health = health if len(first) < 2 else {"spread": spread(first), **health}
    return health if len(first) < LEAST_VIEWS else {**health, "effective_rank": effective_rank(first)}


def collapse(health: dict[str, float]) -> str | None:
    """A sentence if the embeddings have collapsed, that is, if they no longer tell images apart."""
    if health.get("spread", 1) < LEAST_SPREAD:
        found = f"their spread is {health['spread']:.2g} and should be above {LEAST_SPREAD}"
    elif health.get("effective_rank", LEAST_RANK) < LEAST_RANK:
        found = f"their effective rank is {health['effective_rank']:.2f} and should be above {LEAST_RANK}"
    else:
        return None
    return f"the embeddings have collapsed ({found}): do not use these weights; look at the images, try another seed"
