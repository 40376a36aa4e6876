"""A map of airports: a dot for each, brighter where there are many."""

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from sample_app.settings import settings

SIZE = (1440, 720)
GROUND = "#0d1420"
GRATICULE = "#1b2638"
GLOW = ("#000000", "#1c4fd6")
DOTS = ("#000000", "#dfe8ff")
SCALE = 2  # drawn at twice the size and made smaller, which smooths the dots
DOT_RADIUS = 1.2
REPORT_EVERY = 2000

Point = tuple[float, float]
"""Latitude and longitude, in degrees."""


def map_file(tenant: str) -> Path:
    return settings.maps / f"{tenant}.png"


def position(point: Point, size: tuple[int, int] = SIZE) -> Point:
    """Where a place is on the map: x and y, equirectangular."""
    lat, lon = point
    return (lon + 180) / 360 * (size[0] - 1), (90 - lat) / 180 * (size[1] - 1)


def draw(points: Sequence[Point], report: Callable[[int], None] = lambda done: None) -> Image.Image:
    """Draw the map; `report` is called now and then with the number of airports drawn so far."""
    dots = draw_dots(points, report)
    glow = dots.filter(ImageFilter.GaussianBlur(5)).point(lambda value: min(255, value * 2))
    picture = draw_ground()
    picture = ImageChops.screen(picture, ImageOps.colorize(glow, *GLOW))
    return ImageChops.screen(picture, ImageOps.colorize(dots, *DOTS))


def draw_dots(points: Sequence[Point], report: Callable[[int], None]) -> Image.Image:
    large = (SIZE[0] * SCALE, SIZE[1] * SCALE)
    layer = Image.new("L", large)
    pen = ImageDraw.Draw(layer)
    for done, point in enumerate(points, start=1):
        x, y = position(point, large)
        pen.ellipse((x - DOT_RADIUS, y - DOT_RADIUS, x + DOT_RADIUS, y + DOT_RADIUS), fill=210)
        if done % REPORT_EVERY == 0:
            report(done)
    return layer.resize(SIZE, Image.Resampling.BOX)


def draw_ground() -> Image.Image:
    ground = Image.new("RGB", SIZE, GROUND)
    pen = ImageDraw.Draw(ground)
    for lon in range(-150, 180, 30):
        x, _ = position((0, lon))
        pen.line((x, 0, x, SIZE[1]), fill=GRATICULE)
    for lat in range(-60, 90, 30):
        _, y = position((lat, 0))
        pen.line((0, y, SIZE[0], y), fill=GRATICULE)
    return ground


def save(picture: Image.Image, path: Path) -> None:
    """Write the picture in one step, so that nobody is served half of it."""
    part = path.with_suffix(f".{uuid4().hex}.part")
    picture.save(part, "PNG", optimize=True)
    part.replace(path)
