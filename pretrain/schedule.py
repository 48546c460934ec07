"""Length and learning rate of a training: a given number of epochs, or until the held-out loss stops falling.

Both depend only on the number of the step and the held-out losses of the epochs so far, so that a continued run decides
as an uninterrupted one does.
"""

import math

AUTO = "auto"
WARM_UP = 0.1  # share of all steps, when their number is given
WARM_UP_EPOCHS = 3  # with `AUTO`
# So many epochs without a gain are a plateau. At a constant learning rate the held-out loss goes up and down by about
# 2 %: on the demo's source a patience of 3 to 5 stopped at a loss of 0.486, one of 8 at 0.452, which the cool-down
# brought to 0.436.
PATIENCE = 8
LEAST_GAIN = 0.01  # share of the lowest held-out loss before them
COOL_DOWN_EPOCHS = 6
MOST_EPOCHS = 400  # with `AUTO`, so that a training whose loss falls very slowly ends as well


def plateau(losses: list[float]) -> int | None:
    """The number of epochs after which the loss had stopped falling, None while it falls.

    It has stopped when the lowest loss of the last ``PATIENCE`` epochs is not ``LEAST_GAIN`` below the lowest before
    them. The epochs of the warm-up do not count.

    Parameters
    ----------
    losses : list of float
        Held-out loss of every epoch so far.
    """
    for done in range(WARM_UP_EPOCHS + 1 + PATIENCE, len(losses) + 1):
        before, lately = losses[WARM_UP_EPOCHS : done - PATIENCE], losses[done - PATIENCE : done]
        if min(lately) > (1 - LEAST_GAIN) * min(before):
            return done
    return None


def total_epochs(epochs: int | str, losses: list[float]) -> int | None:
    """The number of epochs to train; None while it is not known, that is, with `AUTO` before the plateau."""
    if isinstance(epochs, int):
        return epochs
    steady = plateau(losses)
    if steady is None and len(losses) < MOST_EPOCHS - COOL_DOWN_EPOCHS:
        return None
    return min(steady or MOST_EPOCHS, MOST_EPOCHS - COOL_DOWN_EPOCHS) + COOL_DOWN_EPOCHS


def learning_rate_factor(step: int, *, epochs: int | str, n_epochs: int | None, steps_per_epoch: int) -> float:
    """The factor on the peak learning rate at this step, in (0, 1].

    With a given length: linear warm-up, then half a cosine to zero (MAE, He et al. 2022). With `AUTO`, whose length is
    not known beforehand: linear warm-up, constant, and after the plateau a linear cool-down to zero
    (warmup-stable-decay, Hu et al. 2024, MiniCPM; linear as in Hägele et al. 2024).

    Parameters
    ----------
    step : int
        Counted from 0.
    epochs : int or "auto"
        What the user chose.
    n_epochs : int or None
        What `total_epochs` returns.
    steps_per_epoch : int
    """
    if isinstance(epochs, int):
        n_steps = epochs * steps_per_epoch
        warm = max(1, round(WARM_UP * n_steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
    warm_up = min(1.0, (step + 1) / (WARM_UP_EPOCHS * steps_per_epoch))
    if n_epochs is None:
        return warm_up
    return warm_up * min(1.0, (n_epochs * steps_per_epoch - step) / (COOL_DOWN_EPOCHS * steps_per_epoch))


def warmed_up(epoch: int, *, epochs: int | str) -> bool:
    """Whether the learning rate had reached its peak before this epoch (counted from 0) ended."""
    return epoch + 1 >= (WARM_UP * epochs if isinstance(epochs, int) else WARM_UP_EPOCHS)
