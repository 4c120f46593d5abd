"""The two solvers of one track written out from their papers, to compare with."""

import numpy as np
import torch

ALMOST_ONE = float(np.float32(1 - 1e-6))  # where the library starts: log(1 - sigma) is infinite at 1


class PlainEuler:
    def __init__(self, sigmas, corrects=True):
        self.sigmas, self.index = sigmas, 0

    def step(self, x, v):
        now, following = self.sigmas[self.index : self.index + 2]
        self.index += 1
        return x + v * (following - now)


class PlainUniPC:
    """UniPC-2 (arXiv 2302.04867, algorithms 5 and 6) for data prediction, B(h) = e^h - 1, in float64.

    With alpha = 1 - sigma; the last step is of first order, as the library's.
    """

    def __init__(self, sigmas, corrects=True):
        self.sigmas = [min(float(sigma), ALMOST_ONE) for sigma in sigmas]
        self.corrects = corrects
        self.index, self.clean, self.last, self.order = 0, [], None, 0

    def half_log_snr(self, index):
        sigma = self.sigmas[index]
        return np.log((1 - sigma) / sigma) if sigma else np.inf

    def ratio(self, before, now, h):
        return (self.half_log_snr(before) - self.half_log_snr(now)) / h

    def step(self, x, v):
        i, kind = self.index, x.dtype
        self.index += 1
        if self.sigmas[i] == self.sigmas[i + 1]:
            raise AssertionError("a track that waits is not stepped")
        x = x.double()
        self.clean.append(x - self.sigmas[i] * v.double())
        if self.corrects and i:
            x = self.corrected(i)
        self.order = min(2, i + 1, len(self.sigmas) - 1 - i)
        self.last = x
        return self.moved(x, i, self.order).to(kind)

    def moved(self, x, i, order):
        """The predictor, from sigma i to i + 1."""
        h = self.half_log_snr(i + 1) - self.half_log_snr(i)
        alpha, phi = 1 - self.sigmas[i + 1], np.expm1(-h)
        result = self.sigmas[i + 1] / self.sigmas[i] * x - alpha * phi * self.clean[i]
        if order == 2:
            difference = (self.clean[i - 1] - self.clean[i]) / self.ratio(i - 1, i, h)
            result = result - alpha * phi * 0.5 * difference
        return result

    def corrected(self, i):
        """The corrector: the step to sigma i made again, with the clean sample predicted there."""
        h = self.half_log_snr(i) - self.half_log_snr(i - 1)
        alpha, phi = 1 - self.sigmas[i], np.expm1(-h)
        base = self.sigmas[i] / self.sigmas[i - 1] * self.last - alpha * phi * self.clean[i - 1]
        newest = self.clean[i] - self.clean[i - 1]
        if self.order == 1:
            return base - alpha * phi * 0.5 * newest
        r = self.ratio(i - 2, i - 1, h)
        first = phi / -h - 1
        second = 2 * (first / -h - 0.5)
        weights = np.linalg.solve([[1, 1], [r, 1]], [first / phi, second / phi])
        older = (self.clean[i - 2] - self.clean[i - 1]) / r
        return base - alpha * phi * (weights[0] * older + weights[1] * newest)


def integrate(solver, x, velocity):
    """The end of a run from `x`, a state at the solver's first sigma."""
    for sigma in solver.sigmas[:-1]:
        x = solver.step(x, velocity(x, torch.as_tensor(sigma, dtype=x.dtype)))
    return x
