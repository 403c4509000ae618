"""Writers of betons that leave samples out and note why: the same bytes and notes wherever they were stopped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slideduck.betons import BetonWriter, WrittenBeton, check_beton
from slideduck.betons.format import data_start
from tests.campaign import cases
from tests.small_betons import SAMPLES, SMALL_PAGE, contents, make_samples, write_beton


def write(
    path: Path, left_out: set[int], stop: int = 120, *, together: int = 1
) -> tuple[list[str], WrittenBeton | None]:
    """Write SAMPLES but for some of them, up to a row; return the notes, and what was written if it got to the end."""
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        row = writer.resumed
        assert [int(note) for note in writer.notes] == sorted(left_out)[: writer.left_out]
        while row < stop:
            if row in left_out:
                writer.leave_out(1, str(row))
                row += 1
                continue
            end = next((r for r in range(row, min(row + together, stop)) if r in left_out), min(row + together, stop))
            writer.extend(SAMPLES[row:end], 24, 24, labels=[r % 4 - 1 for r in range(row, end)])
            row = end
        if row < 120:
            return writer.notes, None
        written = writer.finish(f"without {len(left_out)}")
        writer.publish()
        return writer.notes, written


@given(
    left_out=st.sets(st.integers(0, 119), max_size=119),
    stops=st.lists(st.integers(0, 119), max_size=4),
    together=st.integers(1, 50),
)
@settings(max_examples=cases(60, 1200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_and_notes_do_not_depend_on_stops(
    tmp_path: Path, left_out: set[int], stops: list[int], together: int
) -> None:
    path = tmp_path / "tiles.beton"
    expected = write(path, left_out)
    assert expected[0] == [str(row) for row in sorted(left_out)]
    whole = path.read_bytes()
    assert contents(path) == [tile for row, tile in enumerate(SAMPLES) if row not in left_out]
    info = check_beton(path)
    assert (info.samples, info.identity) == (120 - len(left_out), f"without {len(left_out)}")
    for stop in stops:
        write(path, left_out, stop, together=together)
    assert write(path, left_out, together=together) == expected
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["tiles.beton"]


def test_pages_begin_where_they_do_with_all_samples(tmp_path: Path) -> None:
    """The tables of a few fit into less room, which is not known when the first page is written."""
    _, written = write(tmp_path / "tiles.beton", set(range(15, 115)))
    assert data_start(120, SMALL_PAGE) == data_start(20, SMALL_PAGE) + SMALL_PAGE
    few = [*SAMPLES[:15], *SAMPLES[115:]]
    info = write_beton(tmp_path / "few.beton", few)
    assert written is not None
    assert written.bytes == info.bytes + SMALL_PAGE
    assert contents(tmp_path / "tiles.beton") == contents(tmp_path / "few.beton") == few


def test_checksums_of_the_pages_are_given(tmp_path: Path) -> None:
    _, written = write(tmp_path / "tiles.beton", set())
    assert written is not None
    assert len(written.page_crc32) * SMALL_PAGE == written.bytes - data_start(120, SMALL_PAGE) - 120 * 24
    with BetonWriter(tmp_path / "again.beton", samples=120, page_size=SMALL_PAGE) as writer:
        writer.extend(SAMPLES, 24, 24, labels=np.arange(120) % 4 - 1)
        assert writer.finish().page_crc32 == written.page_crc32


def test_writer_that_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    write(path, {3, 4}, 80)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert (writer.resumed > 40, writer.left_out, writer.notes) == (True, 2, ["3", "4"])
        writer.start_anew()
        assert (writer.resumed, writer.rows, writer.left_out, writer.notes) == (0, 0, 0, [])
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert (writer.resumed, writer.note) == (0, None)
        writer.extend(SAMPLES, 24, 24, labels=np.arange(120) % 4 - 1)
        writer.finish()
        writer.publish()
    assert contents(path) == SAMPLES
    write(path, {3}, 80)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        writer.discard()
    assert os.listdir(tmp_path) == ["tiles.beton"]


def test_writer_is_not_misused_in_silence(tmp_path: Path) -> None:
    with BetonWriter(tmp_path / "tiles.beton", samples=3, page_size=SMALL_PAGE) as writer:
        writer.leave_out(2)
        with pytest.raises(ValueError, match="2 more of 3 samples cannot be left out after 0"):
            writer.leave_out(2)
        with pytest.raises(ValueError, match="0 of 3 samples were written, and 2 left out"):
            writer.finish()
        with pytest.raises(ValueError, match="row 1 of 3 has"):
            writer.extend(make_samples(2), 24, 24, labels=[0, 0])
        writer.leave_out()
        with pytest.raises(ValueError, match="0 of 3 samples were written, and 3 left out"):
            writer.finish()
