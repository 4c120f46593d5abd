"""Recognition of the word bank's words in a waveform, and onsets: template matching in one pass over time.

Every recording of the bank is a row of spectra. A path through a clip walks along recordings (staying, going
on, or skipping one spectrum) and through silence, and may start any recording where another ends; the
cheapest path names the words (Bridle, Brown and Chamberlain's one-pass connected-word matching, 1982). The
number of words is not given.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from recipes.pocket.world.clip import SAMPLE_RATE
from recipes.pocket.world.speech import VARIANTS, WORLD, Cast, load_bank

WINDOW, HOP = 256, 64  # samples: 16 ms, 4 ms
BANDS = 24
LOWEST, HIGHEST = 90.0, 7600.0  # Hz
DEPTH_DB = 58.0  # below the loudest band; what is fainter is not heard
USUAL = 8  # percentile of a band in time that is its noise: clips begin and end, or pause, in silence
ABOVE_NOISE_DB = 5.0  # over its noise a band is heard
SILENCE = 1e-4  # root mean square; a clip below it is silent
RISE_HOPS = 4  # an onset's rise is measured over 16 ms
LEAST_RISE_DB = 2.0  # mean over bands
LEAST_GAP = 0.09  # seconds between onsets
LATE = 0.003  # seconds by which the steepest rise follows the onset, measured on true clips

WORD_WINDOW, WORD_HOP, WORD_BANDS = 400, 160, 26  # 25 ms, 10 ms
WORD_DEPTH_DB = 40.0  # below the clip's loudest; what is fainter is silence
COEFFICIENTS = 13
LEVEL_WEIGHT = 0.5  # of the coefficient that is the level: voices differ in how loud they end words
SLOPE_SPAN, SLOPE_WEIGHT = 2, 2.0  # hops each side; slopes count as much as shapes
WORD_PRICE = 10.0  # for starting a word; it keeps one long word from being heard as two short ones
STAY_PRICE, SKIP_PRICE = 0.6, 0.6  # for leaving the recording's own pace
FAR = 1e9


def band_levels(waveform: np.ndarray, window: int = WINDOW, hop: int = HOP, bands: int = BANDS) -> np.ndarray:
    """Decibels [columns, bands] in bands evenly spaced in pitch; column c is centred on sample c * hop."""
    padded = np.pad(np.asarray(waveform, np.float32), window // 2)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(blocks * np.hanning(window).astype(np.float32), 2 * window)) ** 2
    return 10 * np.log10(power @ _bank(window, bands) + 1e-10)


def _bank(window: int, bands: int) -> np.ndarray:
    """Overlapping triangles [bins, bands], evenly spaced on the mel scale, each of unit sum."""
    frequencies = np.fft.rfftfreq(2 * window, 1 / SAMPLE_RATE)
    edges = _hertz(np.linspace(_mel(LOWEST), _mel(HIGHEST), bands + 2))
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    return triangles / triangles.sum(0)


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def audible(levels: np.ndarray, depth: float = DEPTH_DB) -> np.ndarray:
    """Decibels over the hearing floor, 0 where nothing is heard: below the loudest or within the noise."""
    usual = np.percentile(levels, USUAL, axis=0)
    floor = np.maximum(levels.max() - depth, usual + ABOVE_NOISE_DB)
    return np.clip(levels - floor, 0, None)


def onsets(waveform: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Seconds of onsets, float [N]: rises in many bands within 16 ms.

    `share` is the weakest rise that counts, relative to the clip's strongest. A new hit is heard in
    the ring of the last one, whose upper bands have died away by then.
    """
    if np.sqrt(np.mean(np.square(waveform))) < SILENCE:
        return np.empty(0)
    heard = audible(band_levels(waveform))
    before = np.pad(heard, ((RISE_HOPS, 0), (0, 0)))[: len(heard)]
    rise = np.clip(heard - before, 0, None).mean(1)
    rise[(len(waveform) - WINDOW) // HOP :] = 0  # a tone that is cut off there clicks
    least = max(LEAST_RISE_DB, share * rise.max())
    chosen: list[int] = []
    for column in np.argsort(-rise):
        if rise[column] < least:
            break
        if all(abs(column - other) * HOP >= LEAST_GAP * SAMPLE_RATE for other in chosen):
            chosen.append(int(column))
    return np.sort(np.array(chosen, float) * HOP / SAMPLE_RATE - LATE).clip(0)


@dataclass(frozen=True)
class HeardWord:
    text: str
    start: float  # seconds
    end: float
    distance: float = 0.0  # of its spectra from the recording's, the mean over time with all prices


class Recogniser:
    """Recordings of word banks, ready for matching. `without` leaves out one (person, variant)."""

    def __init__(
        self, folder: Path, without: tuple[str, int] | None = None, casts: tuple[Cast, ...] = (WORLD,)
    ) -> None:
        rows, self._texts = [], []
        for cast in casts:
            bank = load_bank(folder, cast)
            for text, person, variant in product(cast.words, cast.voices, range(VARIANTS)):
                if (person, variant) != without:
                    rows.append(word_features(bank.word(text, person, variant).waveform))
                    self._texts.append(text)
        self._lengths = np.array([len(row) for row in rows])
        width = self._lengths.max()
        padded = [np.pad(row, ((0, width - len(row)), (0, 0)), constant_values=FAR**0.25) for row in rows]
        self._templates = np.stack(padded)  # [N, width, D]
        self._silence = word_features(np.zeros(SAMPLE_RATE // 10, np.float32))[:1]

    def recognise(self, waveform: np.ndarray) -> list[HeardWord]:
        features = word_features(waveform)  # [T, D]
        count, width, dim = self._templates.shape
        costs = _distances(features, self._templates.reshape(-1, dim)).reshape(-1, count, width)
        silence = _distances(features, self._silence)[:, 0]
        ends, origins, templates = self._walk(costs, silence)
        return self._trace(ends, origins, templates)

    def _walk(self, costs: np.ndarray, silence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each time: cheapest cost of being between words, when the last word began, and which it was.

        A template of -1 says that silence led there.
        """
        steps, count, width = costs.shape
        rows, last = np.arange(count), self._lengths - 1
        total = np.full((count, width + 2), FAR)  # two cells of padding before each recording's start
        began = np.zeros((count, width + 2), int)
        free = np.empty(steps + 1)  # cheapest cost of being between words before time t
        origins, templates = np.zeros(steps + 1, int), np.full(steps + 1, -1)
        free[0] = 0
        for time in range(steps):
            stay, go, skip = total[:, 2:] + STAY_PRICE, total[:, 1:-1], total[:, :-2] + SKIP_PRICE
            best = np.minimum(np.minimum(stay, go), skip)
            source = np.where(best == go, began[:, 1:-1], np.where(best == stay, began[:, 2:], began[:, :-2]))
            entry = free[time] + WORD_PRICE
            enters = entry < best[:, 0]
            best[enters, 0] = entry
            source[enters, 0] = time
            total[:, 2:] = best + costs[time]
            began[:, 2:] = source
            done = total[rows, last + 2]
            winner = int(done.argmin())
            quiet = free[time] + silence[time]
            if done[winner] < quiet:
                free[time + 1] = done[winner]
                origins[time + 1], templates[time + 1] = began[winner, last[winner] + 2], winner
            else:
                free[time + 1], origins[time + 1] = quiet, time
        return free, origins, templates

    def _trace(self, free: np.ndarray, origins: np.ndarray, templates: np.ndarray) -> list[HeardWord]:
        words = []
        time = len(free) - 1
        while time > 0:
            if templates[time] >= 0:
                begin = origins[time]
                start, end = begin * WORD_HOP / SAMPLE_RATE, time * WORD_HOP / SAMPLE_RATE
                distance = float(free[time] - free[begin]) / (time - begin)
                words.append(HeardWord(self._texts[templates[time]], start, end, distance))
            time = origins[time]
        return words[::-1]


@lru_cache(maxsize=2)
def recogniser(folder: Path, casts: tuple[Cast, ...] = (WORLD,)) -> Recogniser:
    return Recogniser(folder, casts=casts)


def word_features(waveform: np.ndarray) -> np.ndarray:
    """Cepstra and their slopes, float [T, 2 * COEFFICIENTS], of levels above a floor below the loudest."""
    levels = band_levels(waveform, WORD_WINDOW, WORD_HOP, WORD_BANDS)
    levels = np.maximum(levels, max(levels.max() - WORD_DEPTH_DB, -60.0)) - max(
        levels.max() - WORD_DEPTH_DB, -60.0
    )
    angle = np.pi * (np.arange(WORD_BANDS) + 0.5) / WORD_BANDS
    cosines = np.cos(np.arange(COEFFICIENTS)[:, None] * angle) * np.sqrt(2 / WORD_BANDS)
    cosines[0] *= LEVEL_WEIGHT / np.sqrt(2)
    cepstra = levels @ cosines.T / 10
    padded = np.pad(cepstra, ((SLOPE_SPAN, SLOPE_SPAN), (0, 0)), mode="edge")
    slopes = (padded[2 * SLOPE_SPAN :] - padded[: -2 * SLOPE_SPAN]) / (2 * SLOPE_SPAN) * SLOPE_WEIGHT
    return np.concatenate([cepstra, slopes], 1).astype(np.float32)


def _distances(features: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Euclidean distances [T, N]."""
    squares = (features**2).sum(1)[:, None] + (templates**2).sum(1) - 2 * features @ templates.T
    return np.sqrt(np.maximum(squares, 0))


def errors(expected: tuple[str, ...] | list[str], heard: list[str]) -> int:
    """Edit distance in words (or notes) from one to the other."""
    row = list(range(len(heard) + 1))
    for index, word in enumerate(expected, 1):
        previous, row[0] = row[0], index
        for place, other in enumerate(heard, 1):
            previous, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, previous + (word != other)),
            )
    return row[-1]
