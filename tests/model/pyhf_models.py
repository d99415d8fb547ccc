"""Random pyhf models with every modifier, and a slow, obvious twin of their likelihood in torch."""

import math

import numpy as np
import pyhf
import torch
from hypothesis import strategies as st
from pyhf.interpolators import code2

from analytic import normsys

YIELD = st.sampled_from([0.0, 0.3, 5.0, 12.5, 400.0])
ANCHOR = st.sampled_from([0.1, 0.85, 1.0, 1.07, 1.3, 2.5])
ALPHAS = ["a", "b", "c"]
SETTINGS = [
    {"normsys": {"interpcode": n}, "histosys": {"interpcode": h}}
    for n in ("code1", "code4")
    for h in ("code0", "code2", "code4p")
]
# what pyhf adds to alpha below -1 in code 2 depends on its version; here lo, nominal, hi = -1, 0, 1 at alpha = -1.5
CODE2_OFFSET = 1.5 + float(code2([[[[-1.0], [0.0], [1.0]]]], subscribe=False)(np.array([[-1.5]])).ravel()[0])
PARAMETERS = [{"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "bounds": [[0.5, 1.5]], "inits": [1.0]}]


@st.composite
def specs(draw):
    """Channels of 1 to 3 bins and 1 to 3 samples; names shared between samples and channels wherever pyhf allows."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    channels = [
        {"name": f"ch{i}", "samples": [draw(samples(f"ch{i}", s, n)) for s in range(draw(st.integers(1, 3)))]}
        for i, n in enumerate(sizes)
    ]
    spec = {"channels": channels, "parameters": PARAMETERS}
    used = {m["name"] for c in channels for s in c["samples"] for m in s["modifiers"]}
    if not used:
        channels[0]["samples"][0]["modifiers"].append({"name": "mu", "type": "normfactor", "data": None})
    return spec if "lumi" in used else {"channels": channels}


@st.composite
def samples(draw, channel, sample, n):
    def values():
        return draw(st.lists(YIELD, min_size=n, max_size=n))

    data, modifiers = values(), []
    for name in draw(st.sets(st.sampled_from(ALPHAS))):
        modifiers.append(normsys(name, draw(ANCHOR), draw(ANCHOR)))
    for name in draw(st.sets(st.sampled_from(ALPHAS))):
        modifiers.append({"name": name, "type": "histosys", "data": {"hi_data": values(), "lo_data": values()}})
    for name, kind, own in (
        ("mu", "normfactor", None),
        ("k", "normfactor", None),
        ("lumi", "lumi", None),
        (f"shape{n}", "shapefactor", None),
        (f"stat {channel}", "staterror", values),
        (f"uncorrelated {channel} {sample}", "shapesys", values),
    ):
        if draw(st.booleans()):
            modifiers.append({"name": name, "type": kind, "data": own and own()})
    if sample == 0 and draw(st.booleans()):
        modifiers.append({"name": "stat of all", "type": "staterror", "data": values()})
    return {"name": f"s{sample}", "data": data, "modifiers": draw(st.permutations(modifiers))}


def build(spec, settings):
    return pyhf.Model(spec, poi_name=None, modifier_settings=settings)


def points(pdf, rng):
    """Start values; alphas inside, outside and at the seams; vanishing factors: one, two, all of them."""
    start = np.array(pdf.config.suggested_init())
    alpha = start == 0
    yield start
    for spread in (0.3, 2.5):
        yield np.where(alpha, rng.normal(0, spread, len(start)), rng.uniform(0.2, 2, len(start)))
    for edge in (-1.0, 1.0):
        yield np.where(alpha, edge, rng.uniform(0.5, 1.5, len(start)))
    factors = np.flatnonzero(~alpha)
    for vanishing in (1, 2, len(factors)):
        theta = np.where(alpha, rng.normal(0, 1, len(start)), rng.uniform(0.5, 1.5, len(start)))
        theta[rng.permutation(factors)[:vanishing]] = 0.0
        yield theta
    yield np.where(alpha, 0.5, 1e-10)


def factor(code, alpha, lo, hi):
    """Code 1 and code 4; the polynomial's coefficients from the six matching conditions."""
    if code == "code1" or abs(alpha) >= 1:
        return hi**alpha if alpha >= 0 else lo**-alpha
    rows, right = [], []
    for x, anchor, slope in ((1, hi, math.log(hi)), (-1, lo, -math.log(lo))):
        for order in range(3):
            rows.append([math.perm(k, order) * x ** (k - order) if k >= order else 0 for k in range(1, 7)])
            right.append(anchor * slope**order - (order == 0))
    coefficients = np.linalg.solve(np.array(rows, dtype=float), right)
    return 1 + sum(c * alpha**k for k, c in enumerate(coefficients, 1))


def shift(code, alpha, up, down):
    """Codes 0, 2 and 4p of hi - nominal and nominal - lo."""
    if code == "code0":
        return alpha * (up if alpha > 0 else down)
    s, a = (up + down) / 2, (up - down) / 2
    if code == "code2":
        if alpha > 1:
            return (s + 2 * a) * (alpha - 1)
        if alpha < -1:
            return (s - 2 * a) * (alpha + CODE2_OFFSET)
        return a * alpha**2 + s * alpha
    if abs(alpha) > 1:
        return alpha * (up if alpha > 0 else down)
    return alpha * s + alpha**2 * (15 - 10 * alpha**2 + 3 * alpha**4) * a / 8


def twin_rates(pdf, settings, theta):
    """Channel -> rates (samples, bins), a torch function of the parameters, written out."""
    config, rates, seen = pdf.config, {}, {}
    for channel in config.channels:
        samples = {s["name"]: s for c in pdf.spec["channels"] if c["name"] == channel for s in c["samples"]}
        per_bin = {}  # the parameters of staterror and shapesys: as many as bins, channel after channel
        for m in (m for s in samples.values() for m in s["modifiers"] if m["type"] in ("staterror", "shapesys")):
            per_bin.setdefault(m["name"], seen.get(m["name"], 0))
        bins = config.channel_nbins[channel]
        seen |= {name: first + bins for name, first in per_bin.items()}
        rates[channel] = []
        for name in (s for s in config.samples if s in samples):
            nominal = torch.tensor(samples[name]["data"], dtype=torch.float64)
            total, product = nominal, torch.ones(bins, dtype=torch.float64)
            for m in samples[name]["modifiers"]:
                pars, data = theta[config.par_slice(m["name"])], m["data"]
                if m["type"] == "histosys":
                    hi, lo = (torch.tensor(data[key], dtype=torch.float64) for key in ("hi_data", "lo_data"))
                    total = total + shift(settings["histosys"]["interpcode"], pars[0], hi - nominal, nominal - lo)
                elif m["type"] == "normsys":
                    product = product * factor(settings["normsys"]["interpcode"], pars[0], data["lo"], data["hi"])
                elif m["type"] in ("staterror", "shapesys"):
                    product = product * pars[per_bin[m["name"]] :][:bins]
                else:
                    product = product * pars
            rates[channel].append(total * product)
        rates[channel] = torch.stack(rates[channel])
    return rates


def twin_twice_nll(pdf, settings, theta, main, aux):
    """-2 ln L, term by term."""
    rate = torch.cat([r.sum(0) for r in twin_rates(pdf, settings, theta).values()])
    total = minus_twice_log_poisson(torch.tensor(main), rate).sum()
    aux = torch.tensor(aux)
    for name in pdf.config.auxdata_order:
        paramset, pars = pdf.config.param_set(name), theta[pdf.config.par_slice(name)]
        a, aux = aux[: len(pars)], aux[len(pars) :]
        if paramset.pdf_type == "poisson":
            total = total + minus_twice_log_poisson(a, pars * torch.tensor(paramset.factors, dtype=torch.float64)).sum()
        else:
            width = torch.tensor(paramset.width(), dtype=torch.float64)
            total = total + (((a - pars) / width) ** 2 + torch.log(2 * math.pi * width**2)).sum()
    return total


def minus_twice_log_poisson(n, rate):
    return 2 * (rate - torch.xlogy(n, rate) + torch.lgamma(n + 1))
