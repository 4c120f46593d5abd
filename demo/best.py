"""The best of the clips of one click: which of them plays first, and why."""

from collections.abc import Sequence

from mova.metrics import ClipHealth

NUMBERS = {2: "two", 3: "three"}
LEAST_DIFFERENCE = 0.05  # of synchrony: less is not spoken of


def best_of(found: Sequence[ClipHealth]) -> tuple[int, str]:
    """Index of the best clip, and a sentence on what sets it apart from the next and where the others are.

    The fewest technical faults come first, then the best synchrony; of equals the one that was made first.
    """
    measures = [(-len(each.problems()), each.synchrony) for each in found]
    best, *others = sorted(range(len(found)), key=lambda index: measures[index], reverse=True)
    if not others:
        return best, ""
    (faults, sync), (next_faults, next_sync) = measures[best], measures[others[0]]
    number = NUMBERS[len(found)]
    why = f"None of the {number} is clearly better"
    if faults > next_faults:
        why = f"The best of {number}: it has fewer technical faults"
    elif sync >= next_sync + LEAST_DIFFERENCE:
        why = f"The best of {number} by sync"
    rest = "the other is" if len(others) == 1 else f"the other {NUMBERS[len(others)]} are"
    return best, f"{why}; {rest} in Your clips."
