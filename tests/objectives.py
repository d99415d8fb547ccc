"""Objectives with known minima, for the minimisers."""

import numpy as np


class Function:
    """An objective from a function, with its derivatives, or with finite differences."""

    def __init__(self, f, gradient=None, hessian=None):
        self.f, self.gradient, self.hessian = f, gradient or self._slopes, hessian or self._curvature

    def value(self, theta):
        with np.errstate(all="ignore"):
            return float(self.f(np.asarray(theta, dtype=float)))

    def derivatives(self, theta, *, hessian):
        second = np.array(self.hessian(theta)) if hessian else np.empty((0, 0))
        return self.value(theta), np.array(self.gradient(theta)), second

    def _slopes(self, theta):
        def along(e):
            v = [self.value(theta + n * e) for n in (-2, -1, 1, 2)]
            return (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * np.linalg.norm(e))

        return np.array([along(e) for e in 1e-3 * np.eye(len(theta))])

    def _curvature(self, theta):
        steps = 1e-4 * np.eye(len(theta))
        second = np.array([(self.gradient(theta + e) - self.gradient(theta - e)) / 2e-4 for e in steps])
        return (second + second.T) / 2

    def nonpositive(self, theta):
        return []


class Quadratic:
    """(x - center).H.(x - center) / 2."""

    def __init__(self, h, center):
        self.h, self.center = h, center

    def value(self, theta):
        return float((theta - self.center) @ self.h @ (theta - self.center) / 2)

    def derivatives(self, theta, *, hessian):
        return self.value(theta), self.h @ (theta - self.center), self.h.copy() if hessian else np.empty((0, 0))

    def nonpositive(self, theta):
        return []


class Exponentials:
    """-2 ln of Poisson counts n with expectations exp(x)."""

    def __init__(self, n):
        self.n = n

    def value(self, theta):
        return float(2 * np.sum(np.exp(theta) - self.n * theta))

    def derivatives(self, theta, *, hessian):
        second = np.diag(2 * np.exp(theta)) if hessian else np.empty((0, 0))
        return self.value(theta), 2 * (np.exp(theta) - self.n), second

    def nonpositive(self, theta):
        return []


class Counting:
    """Another objective, with its calls counted and, with ``many``, passes over many points."""

    def __init__(self, objective, *, many=False):
        self.objective = objective
        self.calls = {"value": 0, "gradient": 0, "hessian": 0, "passes": 0}
        if many:
            self.many = self._many

    def value(self, theta):
        self.calls["value"] += 1
        return self.objective.value(theta)

    def derivatives(self, theta, *, hessian):
        self.calls["hessian" if hessian else "gradient"] += 1
        return self.objective.derivatives(theta, hessian=hessian)

    def _many(self, thetas):
        self.calls["passes"] += 1
        found = [self.derivatives(theta, hessian=False)[:2] for theta in thetas]
        return np.array([v for v, _ in found]), np.array([g for _, g in found])

    def nonpositive(self, theta):
        return self.objective.nonpositive(theta)

    @property
    def gradient_equivalents(self):
        """In calls of value and gradient; a Hessian counts as four."""
        return self.calls["gradient"] + 4 * self.calls["hessian"] + self.calls["value"]
