"""Draws heads of phantom CT: shape, pose, texture, calibration, noise and lesion of one subject."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]

MAX_VALUE = 4095
KINDS = ("haemorrhage", "infarct", "subdural", "mass")
# Hounsfield units before a subject's own gain and offset.
AIR, SCALP, BONE, CSF, GREY, WHITE = -1000.0, 30.0, 1000.0, 6.0, 37.0, 28.0
WINDOW = (-25.0, 130.0)  # HU at values 0 and MAX_VALUE of a PNG
MIN_LESION = 0.001  # area of the smallest lesion drawn, as a fraction of the image


class Head(NamedTuple):
    """A drawn head; rows go to posterior, columns to the patient's left, slices to superior.

    Attributes:
        image: Values (rows, columns, slices) in HU.
        mask: Lesion, bool of the same shape.
        brain: Everything inside the skull, bool of the same shape.
    """

    image: Array
    mask: NDArray[np.bool_]
    brain: NDArray[np.bool_]


@dataclass(frozen=True)
class Lesion:
    """Lesion in head coordinates, where the outer edge of the skull is the unit circle; ``contrast`` is in HU."""

    kind: str
    level: float
    reach: float
    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    contrast: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, level: float) -> "Lesion":
        """Draws a lesion with its middle at a level."""
        kind = str(rng.choice(KINDS))
        low, high, least, most = {
            "haemorrhage": (0.09, 0.23, 17, 45),
            "infarct": (0.16, 0.33, -23, -10),
            "subdural": (0.07, 0.16, 19, 41),
            "mass": (0.09, 0.19, 13, 38),
        }[kind]
        radius = rng.uniform(low, high)
        distance, bearing = rng.uniform(0.3, 0.62), rng.uniform(0, 2 * np.pi)
        return cls(
            kind=kind,
            level=level,
            reach=rng.uniform(0.2, 0.5),
            centre=(distance * np.cos(bearing), distance * np.sin(bearing)),
            radii=(radius, radius * rng.uniform(0.6, 1.0)),
            angle=rng.uniform(0, np.pi),
            contrast=rng.uniform(least, most),
            seed=int(rng.integers(2**32)),
        )


@dataclass(frozen=True)
class Subject:
    """Parameters of one subject, the same for all its slices."""

    seed: int
    axes: tuple[float, float]
    shift: tuple[float, float]
    angle: float
    harmonics: Array  # (3, 2): amplitude and phase of the outline's 2nd to 4th harmonic
    skull: float
    scalp: float
    atrophy: float
    ventricles: float
    asymmetry: float
    gain: float
    offset: float
    bias: Array  # (4,): x, y, x*y and radius squared
    noise: float
    lesion: Lesion | None

    @classmethod
    def draw(cls, rng: np.random.Generator, lesion_level: float | None = None) -> "Subject":
        """Draws a subject, normal or with the middle of a lesion at a level."""
        scale = rng.uniform(0.975, 1.03)
        return cls(
            seed=int(rng.integers(2**32)),
            axes=(0.70 * scale * rng.uniform(0.98, 1.02), 0.85 * scale * rng.uniform(0.98, 1.02)),
            shift=(rng.uniform(-0.016, 0.016), rng.uniform(-0.016, 0.016)),
            angle=np.deg2rad(rng.normal(0, 2.5)),
            harmonics=np.stack([rng.normal(0, (0.008, 0.005, 0.003)), rng.uniform(0, 2 * np.pi, 3)], axis=1),
            skull=rng.uniform(0.085, 0.105),
            scalp=rng.uniform(0.055, 0.07),
            atrophy=rng.uniform(0.3, 1.0),
            ventricles=rng.uniform(0.75, 1.25),
            asymmetry=rng.normal(0, 0.08),
            gain=rng.uniform(0.95, 1.05),
            offset=rng.uniform(-2, 2),
            bias=rng.normal(0, (0.025, 0.025, 0.015, 0.02)),
            noise=rng.uniform(1.1, 1.9),
            lesion=None if lesion_level is None else Lesion.draw(rng, lesion_level),
        )


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """Smooth noise of unit variance, with details as wide as the fraction ``scale`` of each axis."""
    field = gaussian_filter(rng.standard_normal(shape), scale * np.array(shape), mode="wrap")
    return (field - field.mean()) / field.std()


def _soft(distance: Array, width: float | Array) -> Array:
    """Step from 0 to 1 over about ``width`` around distance 0."""
    return 1 / (1 + np.exp(-np.clip(4 * distance / width, -30, 30)))


def _ellipse(
    x: Array, y: Array, centre: tuple[float, float], radii: tuple[float | Array, float | Array], angle: float
) -> Array:
    """Relative distance from the centre of an ellipse: 0 there, 1 on the ellipse."""
    cos, sin = np.cos(angle), np.sin(angle)
    dx, dy = x - centre[0], y - centre[1]
    return np.sqrt(((cos * dx + sin * dy) / radii[0]) ** 2 + ((cos * dy - sin * dx) / radii[1]) ** 2)


def _section(level: Array, middle: float, extent: float) -> Array:
    """Width at ``level`` of an ellipsoid of width 1 in the middle; just above 0 beyond its extent."""
    return np.sqrt(np.maximum(1e-12, 1 - ((level - middle) / extent) ** 2))


def _ventricles(x: Array, y: Array, level: Array, subject: Subject, width: Array) -> Array:
    """Fraction of ventricular fluid in each voxel: horns low, bodies in the middle, none at the vertex."""
    fluid = np.zeros_like(x)
    for middle, extent, centre, radii, angle in (
        (0.28, 0.34, (0.13, -0.30), (0.065, 0.17), 0.35),  # frontal horn
        (0.55, 0.22, (0.13, 0.00), (0.070, 0.32), -0.08),  # body
        (0.35, 0.32, (0.26, 0.36), (0.075, 0.17), -0.45),  # atrium and occipital horn
        (0.15, 0.22, (0.00, 0.06), (0.022, 0.13), 0.0),  # third ventricle
    ):
        size = subject.ventricles * _section(level, middle, extent)
        for side in (-1, 1):
            part = size * (1 + side * subject.asymmetry)
            scaled = (radii[0] * part, radii[1] * np.sqrt(part))
            inside = 1 - _ellipse(x, y, (side * centre[0], centre[1]), scaled, side * angle)
            fluid = np.maximum(fluid, _soft(inside * scaled[0], width) * (part > 0.2))
    return fluid


def _add_lesion(
    tissue: Array, fluid: Array, lesion: Lesion, level: Array, x: Array, y: Array, depth: Array
) -> tuple[Array, Array]:
    """Adds the lesion to the tissue.

    Args:
        tissue: Brain without the lesion, in HU.
        fluid: Fraction of fluid in 0..1, which a lesion of the tissue leaves unchanged.
        lesion: Lesion to add.
        level: Levels of the slices.
        x: Head coordinate to the patient's left.
        y: Head coordinate to posterior.
        depth: Distance inwards from the inner edge of the skull.

    Returns:
        The tissue in HU with the lesion, and the lesion's opacity in 0..1.
    """
    section = _section(level, lesion.level, lesion.reach)
    rng = np.random.default_rng(lesion.seed)
    shape = tissue.shape
    if lesion.kind == "subdural":
        bearing = np.arctan2(lesion.centre[1], lesion.centre[0])
        turn = np.angle(np.exp(1j * (np.arctan2(y, x) - bearing))) / (0.9 * section)
        thickness = lesion.radii[0] * section * np.sqrt(np.clip(1 - turn**2, 0, 1))
        opacity = _soft(thickness - depth, 0.02) * (thickness > 0.01)
        return tissue + opacity * (GREY + lesion.contrast - tissue), opacity
    distance = _ellipse(x, y, lesion.centre, (lesion.radii[0] * section, lesion.radii[1] * section), lesion.angle)
    if lesion.kind == "haemorrhage":
        opacity = _soft(1 - distance + 0.18 * _noise(rng, shape, 0.03), 0.25)
        rim = _soft(1.35 - distance, 0.3) * (1 - fluid)
        tissue = tissue - 6 * rim * (1 - opacity)
        return tissue + opacity * (GREY + lesion.contrast - tissue), opacity
    if lesion.kind == "infarct":
        opacity = _soft(1 - distance + 0.15 * _noise(rng, shape, 0.05), 0.5) * (1 - fluid)
        return tissue + opacity * (0.5 * (GREY + WHITE) + lesion.contrast - tissue), opacity
    opacity = _soft(1.0 - distance + 0.12 * _noise(rng, shape, 0.05), 0.3)
    oedema = _soft(1.75 - distance + 0.3 * _noise(rng, shape, 0.05), 0.4) * (1 - fluid)
    ring = np.exp(-(((distance - 0.85) / 0.25) ** 2))
    tissue = tissue + oedema * (WHITE - 10 - tissue)
    core = GREY + lesion.contrast * ring - 0.25 * lesion.contrast * (1 - ring)
    return tissue + opacity * (core - tissue), np.maximum(opacity, oedema)


def draw_head(subject: Subject, levels: ArrayLike, shape: tuple[int, int] = (128, 128)) -> Head:
    """Draws slices of a subject; the same arguments draw the same slices.

    The nose and a calcification of the left choroid plexus tell front from back and left from right.

    Args:
        subject: Subject to draw.
        levels: (slices,) levels from the skull base (0) to the vertex (1), of a whole volume, whose texture continues
            from slice to slice, or of one slice.
        shape: Rows and columns; the field of view always fills them.
    """
    levels = np.asarray(levels, float)
    rng = np.random.default_rng([subject.seed, *np.rint(1e6 * levels).astype(int)])
    row, column, level = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), levels, indexing="ij", sparse=True)
    size = (*shape, len(levels))
    taper = np.sqrt(1 - (0.6 * level) ** 2)
    cos, sin = np.cos(subject.angle), np.sin(subject.angle)
    dx, dy = column - subject.shift[0], row - subject.shift[1]
    x = (cos * dx + sin * dy) / (subject.axes[0] * taper)
    y = (cos * dy - sin * dx) / (subject.axes[1] * taper)
    pixel = 2 / (min(shape) * subject.axes[0] * taper)

    turn = np.arctan2(y, x)
    outline = 1 + sum(a * np.cos(k * turn + phase) for k, (a, phase) in enumerate(subject.harmonics, start=2))
    radius = np.hypot(x, y) / outline
    table = 1 - subject.scalp / taper
    thickness = subject.skull / taper * (1 + 0.15 * np.cos(2 * turn + subject.harmonics[0, 1]))
    depth = table - thickness - radius

    gyri, ripple = _noise(rng, size, 0.03), _noise(rng, size, 0.014)
    white = _soft(depth - 0.15 + 0.05 * gyri + 0.03 * ripple, 0.08)
    for side in (-1, 1):  # the deep grey nuclei
        nuclei = 1 - _ellipse(x, y, (side * 0.24, -0.02), (0.10, 0.24), side * 0.25)
        white = white * (1 - 0.8 * _soft(nuclei, 0.5) * np.maximum(0, 1 - level / 0.55))
    tissue = GREY + (WHITE - GREY) * white + 0.8 * _noise(rng, size, 0.012) + 0.9 * _noise(rng, size, 0.05)

    sulci = np.exp(-((_noise(rng, size, 0.022) / 0.16) ** 2)) * _soft(0.20 - depth, 0.06)
    fissure = np.exp(-((x / (0.022 + 0.015 * subject.atrophy)) ** 2)) * _soft(np.abs(y) - 0.42 + 0.5 * level, 0.1)
    rim = _soft(0.022 * subject.atrophy + 0.008 - depth, pixel)
    sylvian = np.zeros_like(x)
    for side in (-1, 1):
        cleft = _ellipse(x, y, (side * 0.62, -0.10), (0.20, 0.028), side * 0.35)
        sylvian = np.maximum(sylvian, _soft(1 - cleft, 1.0) * np.maximum(0, 1 - level / 0.5))
    surface = np.maximum.reduce([0.75 * subject.atrophy * sulci, 0.6 * fissure, 0.8 * rim, 0.8 * sylvian])
    fluid = np.maximum(surface, _ventricles(x, y, level, subject, 2 * pixel))
    tissue = tissue + fluid * (CSF - tissue)
    falx = np.exp(-((x / (0.5 * pixel + 0.006)) ** 2)) * _soft(np.abs(y) - 0.5 + 0.6 * level, 0.06)
    tissue = tissue + 0.7 * falx * (49 - tissue)
    width = 0.05 * _section(level, 0.4, 0.15)
    tissue = tissue + _soft(1 - _ellipse(x, y, (0.27, 0.34), (width, width), 0.0), 0.5) * (110 - tissue)

    brain = depth > 0
    mask = np.zeros_like(brain)
    if subject.lesion is not None:
        lesioned, opacity = _add_lesion(tissue, fluid, subject.lesion, level, x, y, depth)
        mask = brain & (opacity > 0.5)
        # A smaller lesion is not drawn: an abnormal slice must look abnormal.
        seen = mask.sum(axis=(0, 1), keepdims=True) >= MIN_LESION * shape[0] * shape[1]
        tissue, mask = np.where(seen, lesioned, tissue), mask & seen
    width = 0.14 * _section(level, 0.0, 0.4)
    skin = np.maximum(_soft(1 - radius, pixel), _soft(1 - _ellipse(x, y, (0.0, -0.96), (width, width), 0.0), 0.3))
    image = AIR + skin * (SCALP + 8 * _noise(rng, size, 0.03) - AIR)
    diploe = np.exp(-(((depth + 0.5 * thickness) / (0.22 * thickness)) ** 2))
    bone = BONE - 400 * diploe + 50 * _noise(rng, size, 0.02)
    image = image + _soft(table - radius, pixel) * (bone - image)
    image = image + _soft(depth, pixel) * (tissue - image)

    bias = sum(
        share * field
        for share, field in zip(subject.bias, (column, row, column * row, column**2 + row**2), strict=True)
    )
    image = subject.gain * image * (1 + bias) + subject.offset
    image = gaussian_filter(image, 0.45 * min(shape) / 128, axes=(0, 1))
    return Head(image + subject.noise * _noise(rng, size, 0.5 / 128), mask, brain)
