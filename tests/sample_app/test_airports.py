from itertools import chain
from pathlib import Path

import pytest

from sample_app import airports

HEADING = b"icao,name,country,lat,lon\n"
GOOD = b"KJFK,Kennedy,US,40.6,-73.8\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "airports.csv"


def test_every_airport_of_the_package_is_in_order() -> None:
    rows = list(airports.read(airports.bundled_file()))

    assert len(rows) == airports.count_lines(airports.bundled_file()) == 28_298
    assert len({row.icao for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: the heading lacks country, icao, lat, lon, name"),
        (b"icao,name,country\nKJFK,Kennedy,US\n", "line 1: the heading lacks lat, lon"),
        (b"PK\x03\x04 not a CSV file", "line 1: the heading lacks country, icao, lat, lon, name"),
        (HEADING + GOOD + b"EDDF,Frankfurt,DE,150,8.6\n", "line 3: lat: "),
        (HEADING + GOOD + b"EDDF,Frankfurt,DE,north,8.6\n", "line 3: lat: "),
        (HEADING + GOOD + b"EDDF,Frankfurt,DE,nan,8.6\n", "line 3: lat: "),
        (HEADING + GOOD + b"EDDF,,DE,50,8.6\n", "line 3: name: "),
        (HEADING + GOOD + b"EDDF,Frankfurt,DE,50\n", "line 3: lon: Field required"),
        (HEADING + GOOD + b"EDDF,Frankfurt,DE,50,8.6,7\n", "line 3: 6 fields, but the heading has 5"),
        (HEADING + GOOD + b"EDDF,Frankfurt,Germany,50,8.6\n", "line 3: country: "),
        (HEADING + GOOD + b"EDDF,Frankf\xfcrt,DE,50,8.6\n", "line 3: name: "),
        (HEADING + GOOD + GOOD, "line 3: icao: KJFK was already on line 2"),
        (HEADING + b'EDDF,"Frank\nfurt",DE,50,8.6\nbad\n', "line 4: icao: "),
        (HEADING + GOOD + b'EDDF,"Frankfurt,DE,50,8.6\n', "line 3: unexpected end of data"),
        (
            HEADING + GOOD + b"EDDF," + b"x" * 200_000 + b",DE,50,8.6\n",
            "line 3: field larger than field limit",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_reason(file: Path, content: bytes, complaint: str) -> None:
    file.write_bytes(content)

    with pytest.raises(airports.BadLine) as caught:
        list(airports.read(file))

    assert str(caught.value).startswith(complaint)
    assert len(str(caught.value)) < 200


def test_empty_lines_spaces_and_a_byte_order_mark_do_no_harm(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + HEADING + b"\n" + b" KJFK , Kennedy ,US,40.6,-73.8\r\n")

    (row,) = airports.read(file)

    assert (row.icao, row.name, row.lat) == ("KJFK", "Kennedy", 40.6)


def test_batches_lose_nothing() -> None:
    rows = list(airports.read(airports.bundled_file()))[:600]

    found = list(airports.batches(rows, 250))

    assert [len(batch) for batch in found] == [250, 250, 100]
    assert list(chain.from_iterable(found)) == rows
