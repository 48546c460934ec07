"""Why a case was picked, in words for whoever annotates it."""

from nnunetv2_xssr.records.selection import Pick

# The parts of a score are scaled over the pool, 0 its least and 1 its largest value. From these values on they tell a
# case from most others.
TYPICAL = 0.5  # density
FAR = 0.7  # novelty
UNLIKE = 0.8  # diversity: the distance to the nearest chosen case, as a share of the largest there was at that moment


def reason(pick: Pick) -> str:
    """What speaks for a pick, in words: as many of these as hold, joined with "; ".

    - "typical of 31 similar cases": it is the nearest chosen case of so many others and lies in a dense region
      (density >= ``TYPICAL``); "stands for 31 other cases" if the region is sparse, "one of a kind" for no others
    - "far from anything in the source": novelty >= ``FAR``
    - "nothing like it chosen yet": diversity >= ``UNLIKE``

    A strategy without source has novelty 0, and the first pick of all has diversity 0: they are not mentioned. Of a
    random pick these words are as true, but they are not why it was picked.
    """
    others = pick.stands_for - 1
    noun = ("case" if pick.slice is None else "slice") + ("" if others == 1 else "s")
    if others == 0:
        said = ["one of a kind"]
    elif pick.density >= TYPICAL:
        said = [f"typical of {others} similar {noun}"]
    else:
        said = [f"stands for {others} other {noun}"]
    if pick.novelty >= FAR:
        said.append("far from anything in the source")
    if pick.diversity >= UNLIKE:
        said.append("nothing like it chosen yet")
    return "; ".join(said)
