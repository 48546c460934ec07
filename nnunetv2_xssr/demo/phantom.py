"""Chest-X-ray-like phantoms of two sites, written as nnU-Net raw datasets.

A phantom is a sum of tissue thicknesses along the ray (body, lungs, heart, spine, ribs), put through a film curve,
blurred and made grainy. The task is to segment the lungs. The source site is an outpatient clinic with clean, uniform
films. The target site is a hospital: softer, noisier, closer films, and now and then a kind of case that the clinic
never sees. Such kinds are rare, so a small random draw misses most of them.

Thorax coordinates: x to the image's right (the patient's left), y down, the lungs' tips at y = -1 and their lowest
angles at about y = 1.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.io import imsave

SIZE = 96  # height and width of every image, in pixels


@dataclass(frozen=True)
class Site:
    """How one hospital takes X-rays, and of whom."""

    contrast: float  # slope of the film curve: higher is harder
    noise: float  # standard deviation of the film grain, as a part of the full grey range
    blur: float  # standard deviation of the unsharpness, in pixels
    field_of_view: float  # half the side of the image, in half heights of an average adult's lungs
    variant_mix: Mapping[str, float]  # how often each kind of case comes, as parts of 1


SOURCE_SITE = Site(contrast=5.5, noise=0.015, blur=0.5, field_of_view=1.35, variant_mix={"ordinary": 1.0})
TARGET_MIX = {"ordinary": 0.76, "white_out": 0.06, "inverted": 0.06, "infant": 0.06, "lateral": 0.06}
TARGET_SITE = Site(contrast=4.0, noise=0.04, blur=1.0, field_of_view=1.2, variant_mix=TARGET_MIX)


@dataclass(frozen=True)
class Patient:
    """Anatomy, position and findings of one exposure; lengths in half heights of this patient's lungs."""

    size: float  # half height of the lungs, relative to an average adult
    width: float  # half width of the rib cage
    fat: float  # soft tissue beside the rib cage
    domes: tuple[float, float]  # height of the diaphragm on the image's left and right
    heart: tuple[float, float]  # half axes of the heart
    aeration: float  # how much air the lungs hold: 1 is a deep breath
    white_out: tuple[float, float]  # part of that air lost on the image's left and right
    rib_pitch: float  # distance from one rib to the next
    tilt: float  # rotation in the image plane, in radians
    offset: tuple[float, float]  # of the thorax's centre (x, y) from the image's, in half image sides
    exposure: float  # shift of the film curve
    shutter: tuple[float, float, float, float]  # collimated border at the left, right, top and bottom, in half sides
    lateral: bool = False  # seen from the side
    inverted: bool = False  # bones black, air white


def draw_case(site: Site, rng: np.random.Generator, variant: str | None = None) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw one case of a site; without a `variant`, one is drawn from the site's mix.

    Returns
    -------
    image, label : uint8 arrays (H, W)
        The label is 1 inside the lungs.
    variant : str
    """
    if variant is None:
        variant = str(rng.choice(list(site.variant_mix), p=list(site.variant_mix.values())))
    image, label = render(draw_patient(variant, rng), site, rng)
    return image, label, variant


def draw_patient(variant: str, rng: np.random.Generator) -> Patient:
    """Draw a patient's anatomy and position: an ordinary adult, changed as the variant asks."""
    patient = Patient(
        size=rng.normal(1.0, 0.03),
        width=rng.normal(0.88, 0.03),
        fat=rng.uniform(0.1, 0.2),
        domes=(rng.normal(0.32, 0.03), rng.normal(0.24, 0.03)),
        heart=(rng.normal(0.32, 0.03), rng.normal(0.40, 0.03)),
        aeration=rng.normal(1.0, 0.08),
        white_out=(0.0, 0.0),
        rib_pitch=rng.normal(0.2, 0.01),
        tilt=np.deg2rad(rng.normal(0, 2)),
        offset=(rng.normal(0, 0.02), rng.normal(0.06, 0.02)),
        exposure=rng.normal(0, 0.03),
        shutter=tuple(np.maximum(rng.normal(0.03, 0.015, size=4), 0)),
    )
    if variant == "ordinary":
        return patient
    if variant == "white_out":
        return replace(patient, white_out=tuple(rng.uniform(0.65, 0.9, size=2)))
    if variant == "inverted":
        return replace(patient, inverted=True)
    if variant == "infant":
        return replace(
            patient,
            size=rng.uniform(0.42, 0.52),
            width=rng.normal(1.15, 0.05),
            domes=(rng.normal(0.4, 0.04), rng.normal(0.35, 0.04)),
            heart=(rng.normal(0.55, 0.04), rng.normal(0.55, 0.04)),
            aeration=rng.normal(0.7, 0.06),
            tilt=np.deg2rad(rng.normal(0, 8)),
            offset=(rng.normal(0, 0.08), rng.normal(-0.2, 0.06)),
        )
    if variant == "lateral":
        return replace(patient, lateral=True, width=rng.normal(0.72, 0.04))
    raise ValueError(f"unknown variant {variant!r}")


def render(patient: Patient, site: Site, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Take the X-ray of a patient: image and label, both uint8 (H, W); `rng` gives lung texture and film grain."""
    v, u = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    scale = site.field_of_view / patient.size
    across, down = scale * (u - patient.offset[0]), scale * (v - patient.offset[1])
    cos, sin = np.cos(patient.tilt), np.sin(patient.tilt)
    x, y = cos * across + sin * down, cos * down - sin * across
    thickness, lung = (_side_view if patient.lateral else _front_view)(x, y, patient, rng)
    thickness = gaussian_filter(thickness, site.blur)

    film = 1 / (1 + np.exp(-site.contrast * (thickness - 0.75 + patient.exposure)))
    film += site.noise * gaussian_filter(rng.normal(size=film.shape), 0.5) / 0.55  # 0.55 restores the grain's strength
    left, right, top, bottom = patient.shutter
    exposed = (u > left - 1) & (u < 1 - right) & (v > top - 1) & (v < 1 - bottom)
    film[~exposed] = 0.02
    if patient.inverted:
        film = 1 - film
    return np.rint(np.clip(film, 0, 1) * 255).astype(np.uint8), (lung & exposed).astype(np.uint8)


def _front_view(x, y, patient, rng):
    """Tissue thickness (H, W) and lung mask (H, W) from the front."""
    width = patient.width
    arms = 0.6 * _ellipsoid(np.abs(x) - 1.6 * width, y - 0.1, 0.25, 1.3, turn=-0.15)
    head = _ellipsoid(x, y + 2.15, 0.6, 0.8)
    body = np.maximum.reduce([_body(x, y, width, patient.fat), arms, head])
    heart_x = x - 0.4 * patient.heart[0]
    heart = _ellipsoid(heart_x, y - 0.34, *patient.heart, turn=0.7)
    silhouette = (heart > 0) | ((y > 0.34) & (np.abs(heart_x) < 0.75 * patient.heart[0]))  # it sits on the diaphragm
    aorta = _ellipsoid(x - 0.12, y + 0.38, 0.11, 0.14)

    air, lung = np.zeros_like(x), np.zeros(x.shape, bool)
    for side, dome, lost in zip((-1, 1), patient.domes, patient.white_out, strict=True):
        field = _lung_field(side * x - 0.46 * width, y, 0.54 * width, 0.35 * width, dome)
        field = np.where(silhouette | (aorta > 0), -1, field)
        lung |= field > 0
        air += (1 - lost) * patient.aeration * _depth(field)

    ribs = _ribs(np.abs(x) / width, y, patient.rib_pitch)
    spine = np.exp(-((x / 0.13) ** 4)) * (0.16 + 0.05 * np.cos(2 * np.pi * y / 0.17))
    mediastinum = 0.1 * np.exp(-((x / (0.17 + 0.05 * y**2)) ** 4)) * (np.abs(y + 0.1) < 0.8)
    windpipe = -0.14 * np.exp(-((x / 0.06) ** 2)) / (1 + np.exp((y + 0.4) / 0.04))
    stomach = 0.3 * _ellipsoid(x - 0.45 * width, y - 0.98, 0.2, 0.1)
    bowel = 0.25 * np.clip(_texture(x.shape, 4, rng), 0, 1) / (1 + np.exp((1.35 - y) / 0.05))
    gas = (stomach + bowel) * (np.abs(x) < 0.9 * width)
    collar = -0.8 - 0.1 * np.sin(3 * np.abs(x) / width - 0.6)
    collarbones = 0.16 * _band(y - collar, 0.045) * (np.abs(x) > 0.1) * (np.abs(x) < 1.15 * width)
    vessels = 0.12 * _texture(x.shape, 1.5, rng) * np.exp(-((np.abs(x) - 0.25) ** 2 + y**2) / 0.25)
    soft = body * (1 - 0.6 * air) + 0.14 * heart + 0.05 * aorta + windpipe - gas
    return soft + (spine + mediastinum + ribs + collarbones + vessels * (air > 0)) * (body > 0), lung


def _side_view(x, y, patient, rng):
    """Tissue thickness (H, W) and lung mask (H, W) from the side, the patient facing the image's left."""
    width = patient.width
    body = _body(x, y, width, patient.fat)
    heart = _ellipsoid(x + 0.4 * width, y - 0.38, 0.8 * patient.heart[0], 0.8 * patient.heart[1], turn=0.4)
    # The diaphragm falls to the back, so the field is sheared before it is cut.
    field = _lung_field(x - 0.02, y - 0.25 * x, 0.85 * width, 0.9 * width, patient.domes[0])
    field = np.where((heart > 0) | ((y > 0.38) & (x < -0.4 * width)), -1, field)
    lung = field > 0
    spine_x = 0.72 * width + 0.12 * np.cos(2 * y)
    spine = _band(x - spine_x + 0.1, 0.14) * (0.22 + 0.06 * np.cos(2 * np.pi * y / 0.17))
    arms = 0.35 * _band(y + 1.05 - 0.2 * x, 0.25)
    breastbone = 0.12 * _band(x + 0.95 * width - 0.15 * (y > -0.5) * (y + 0.5), 0.05) * (np.abs(y + 0.2) < 0.6)
    ribs = _ribs(np.abs(x - 0.8 * width) / width, y, patient.rib_pitch)
    vessels = 0.1 * _texture(x.shape, 1.5, rng) * np.exp(-(x**2 + y**2) / 0.15)
    soft = 1.1 * body * (1 - 0.55 * patient.aeration * _depth(field)) + 0.12 * heart
    return soft + (spine + arms + breastbone + 0.6 * ribs + vessels * lung) * (body > 0), lung


def _body(x, y, width, fat):
    """Thickness of the trunk with shoulders and neck; an elliptic cross section, thicker in the belly."""
    shoulders = np.sqrt(np.clip((y + 1.35) / 0.4, 0, 1))
    half_width = 0.3 + (1.1 * width + fat + 0.4 * np.exp(-(((y + 0.75) / 0.35) ** 2)) - 0.3) * shoulders
    return np.sqrt(np.clip(1 - (x / half_width) ** 2, 0, 1)) * (1 + 0.2 / (1 + np.exp(-(y - 0.7) / 0.1)))


def _lung_field(dx, y, outer, inner, dome):
    """Positive inside one lung, about the distance to its border; `dx` runs outwards from the lung's axis."""
    across = np.abs(dx / np.where(dx > 0, outer, inner))
    above = np.clip((0.3 - y) / 1.3, 0, None)
    egg = 1 - across**2.4 - above**2.2
    diaphragm = 0.85 - dome + (dome + 0.12) * (dx / outer) ** 2
    return np.minimum(0.3 * egg, diaphragm - y)


def _depth(field):
    """Air along the ray, 0 to 1: a lung is thin near its border."""
    return np.sqrt(np.clip(field / 0.2, 0, 1))


def _ribs(across, y, pitch):
    """Thickness of the back ribs, falling outwards, and of the fainter front ribs, rising outwards."""
    back = (y - 0.45 * across**2 + 0.25 * across) / pitch
    front = (y + 0.55 * across) / pitch
    cage = (across < 1.04) & (y > -1.0 + 0.5 * across**4) & (y < 0.85)
    return cage * (0.13 * _band(back % 1 - 0.5, 0.22) + 0.06 * _band(front % 1 - 0.5, 0.2) * (across > 0.4))


def _ellipsoid(x, y, a, b, turn=0.0):
    """Thickness, 0 to 1, of an ellipsoid with half axes `a` and `b`, turned by `turn` radians."""
    cos, sin = np.cos(turn), np.sin(turn)
    return np.sqrt(np.clip(1 - ((cos * x + sin * y) / a) ** 2 - ((cos * y - sin * x) / b) ** 2, 0, 1))


def _band(distance, half_width):
    """A soft line, 1 in its middle."""
    return np.exp(-((distance / half_width) ** 4))


def _texture(shape, grain, rng):
    """Random field of unit standard deviation, smooth over `grain` pixels."""
    field = gaussian_filter(rng.normal(size=shape), grain)
    return field / field.std()


def write_datasets(
    raw_folder: str | Path,
    source_name: str = "Dataset901_XSSRDemoSource",
    target_name: str = "Dataset902_XSSRDemoTarget",
    n_source: int = 120,
    n_pool: int = 120,
    n_test: int = 40,
    seed: int = 0,
) -> dict:
    """Write both sites as nnU-Net raw datasets: the source without labels, the target with labels and a `cases.csv`.

    Equal arguments write equal bytes. Neither dataset may exist in `raw_folder` before: nothing is written over.

    Returns
    -------
    dict
        `pool` and `test`: the target's cases, which share one variant mix; `variants`: case to variant.
    """
    source_rng, target_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    source = _draw_mix(SOURCE_SITE, n_source, source_rng)
    target = _draw_mix(TARGET_SITE, n_pool, target_rng) + _draw_mix(TARGET_SITE, n_test, target_rng)
    _write_cases(Path(raw_folder) / source_name, SOURCE_SITE, source, source_rng, labelled=False)
    names = _write_cases(Path(raw_folder) / target_name, TARGET_SITE, target, target_rng, labelled=True)
    with open(Path(raw_folder) / target_name / "cases.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("case", "variant"), *zip(names, target, strict=True)])
    return {"pool": names[:n_pool], "test": names[n_pool:], "variants": dict(zip(names, target, strict=True))}


def _draw_mix(site, n, rng):
    """The variants of `n` cases in random order, as near to the site's mix as whole cases go."""
    variants, shares = list(site.variant_mix), n * np.array(list(site.variant_mix.values()))
    counts = np.floor(shares + 1e-9).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    return rng.permutation(np.repeat(variants, counts)).tolist()


def _write_cases(folder, site, variants, rng, labelled):
    """Draw and write one case per variant and the `dataset.json`; return the cases' names."""
    names = [f"demo_{number:03d}" for number in range(len(variants))]
    (folder / "imagesTr").mkdir(parents=True)
    if labelled:
        (folder / "labelsTr").mkdir()
    for name, variant in zip(names, variants, strict=True):
        image, label, _ = draw_case(site, rng, variant)
        imsave(folder / "imagesTr" / f"{name}_0000.png", image, check_contrast=False)
        if labelled:
            imsave(folder / "labelsTr" / f"{name}.png", label, check_contrast=False)
    labels = {"background": 0, "lung": 1}
    dataset = {"channel_names": {"0": "xray"}, "labels": labels, "numTraining": len(names), "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=2) + "\n", encoding="utf-8")
    return names
