"""Why a case was picked, in words for whoever annotates it."""

from nnunetv2_xssr.records.selection import Pick

# The parts of a score are scaled over the pool: 0 is its least and 1 its largest value. From these values on they set
# a case apart from most others.
TYPICAL = 0.5  # density
FAR = 0.7  # novelty
DOUBTED = 0.8  # doubt: the model is surer of so many of the other cases
UNLIKE = 0.8  # diversity: the distance to the nearest pick, as a share of the largest at that moment


def reason(pick: Pick, *, alpha: float | None) -> str:
    """What speaks for a pick, in words: as many of these as hold, joined with "; ".

    - "typical of 31 other cases": it is the nearest pick of so many others and lies in a dense region
      (density >= ``TYPICAL``); "stands for 31 other cases" if the region is sparse, "stands for no other case" for none
    - "among the farthest from the source": novelty >= ``FAR``, unless novelty had no weight
    - "the model is unsure of it": doubt >= ``DOUBTED``
    - "among the least like those chosen before": diversity >= ``UNLIKE``, unless diversity had no weight in the
      score; "looks just like a chosen one" where its distance to one of them is 0. How far that is it does not say: of
      a budget that buys nearly everything, the last picks are near to others

    Of a slice other volumes are counted ("typical of slices in 12 other volumes"), because its neighbours in its own
    volume are like it anyway; "stands for its own volume" if there are no others.

    A strategy without source has novelty 0, and the first pick of all has diversity 0: neither is mentioned then. For a
    strategy without alpha, such as random, the words are true, but they are not why the case was picked.

    Parameters
    ----------
    pick : Pick
    alpha : float or None
        Weight of novelty, of which diversity has the rest to 1; None for strategies without it.
    """
    others, typical = pick.stands_for - 1, pick.density >= TYPICAL
    if others == 0:
        said = [f"stands for no other {'case' if pick.other_volumes is None else 'slice'}"]
    elif pick.other_volumes is None:
        cases = "case" if others == 1 else "cases"
        said = [f"typical of {others} other {cases}" if typical else f"stands for {others} other {cases}"]
    elif pick.other_volumes == 0:
        said = ["stands for its own volume"]
    else:
        volumes = f"{pick.other_volumes} other volume{'s' * (pick.other_volumes > 1)}"
        said = [f"{'typical of' if typical else 'stands for'} slices in {volumes}"]
    if pick.novelty >= FAR and alpha != 0:
        said.append("among the farthest from the source")
    if pick.doubt is not None and pick.doubt >= DOUBTED:
        said.append("the model is unsure of it")
    if pick.diversity >= UNLIKE and (alpha != 1 or pick.score is None):
        said.append("among the least like those chosen before")
    if pick.diversity == 0 and pick.rank > 1:
        said.append("looks just like a chosen one")
    return "; ".join(said)
