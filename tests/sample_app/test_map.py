import io

import pytest
from PIL import Image

from sample_app import map
from tests.sample_app.server import Sample

KENNEDY, SYDNEY = (40.6, -73.8), (-33.9, 151.2)
OCEAN = (-20.0, -120.0)
FILE = b"icao,name,country,lat,lon\nKJFK,Kennedy,US,40.6,-73.8\nYSSY,Sydney,AU,-33.9,151.2\n"


def brightness(picture: Image.Image, place: map.Point) -> int:
    """How bright the map is at a place: at its brightest, as a dot may fall between pixels."""
    x, y = (round(value) for value in map.position(place))
    spot = picture.convert("L").crop((x - 1, y - 1, x + 2, y + 2))
    return max(spot.tobytes())


def test_each_airport_is_a_bright_dot() -> None:
    picture = map.draw([KENNEDY, SYDNEY])

    assert picture.size == (1440, 720)
    assert brightness(picture, KENNEDY) > 100
    assert brightness(picture, SYDNEY) > 100
    assert brightness(picture, OCEAN) < 50


def test_the_edges_of_the_world_are_on_the_map() -> None:
    picture = map.draw([(90, 180), (-90, -180), (90, -180), (-90, 180)])

    corners = [picture.getpixel(corner) for corner in ((0, 0), (1439, 0), (0, 719), (1439, 719))]

    assert all(isinstance(corner, tuple) and sum(corner) > 200 for corner in corners)


def test_drawing_says_how_far_it_is() -> None:
    said: list[int] = []

    map.draw([KENNEDY] * 5000, said.append)

    assert said == [2000, 4000]


@pytest.mark.processes
@pytest.mark.xdist_group("sample map")
def test_the_map_of_a_tenant_is_drawn_by_a_job_and_shown(sample: Sample) -> None:
    assert sample.client.get("/tenants/northwind/map.png").status_code == 404
    assert "No map has been drawn yet" in sample.page("/tenants/northwind")
    sample.upload("northwind", FILE)
    sample.ended(queue="import:northwind")

    sample.press("/tenants/northwind/map")
    job = sample.ended(queue="map:northwind")
    answer = sample.client.get("/tenants/northwind/map.png")
    picture = Image.open(io.BytesIO(answer.content))

    assert job["state"] == "succeeded", job["error"]
    assert job["log"] == ["2 airports to draw"]
    assert "/tenants/northwind/map.png?" in sample.page("/tenants/northwind")
    assert answer.headers["content-type"] == "image/png"
    assert (picture.format, picture.size) == ("PNG", (1440, 720))
    assert brightness(picture, KENNEDY) > 100
    assert brightness(picture, SYDNEY) > 100
    assert brightness(picture, OCEAN) < 50


@pytest.mark.processes
@pytest.mark.xdist_group("sample map")
def test_who_asks_for_the_map_twice_gets_it_once(sample: Sample) -> None:
    sample.client.post("/jobs/queues/pause", data={"queue": "map:globex"})
    for _ in range(3):
        sample.press("/tenants/globex/map")

    assert len(sample.jobs(queue="map:globex")) == 1

    sample.client.post("/jobs/queues/resume", data={"queue": "map:globex"})
    assert sample.ended(queue="map:globex")["state"] == "succeeded"
