import dataclasses

import pytest

from muse.errors import UsageError
from muse.head.head_config import HeadConfig
from muse.head.paper_tables import TABLE_NAMES, paper_table


def test_scales_are_labelled_with_their_cells() -> None:
    table = paper_table("scales", grid=7)
    labels = ["{1}", "{1, 3}", "{1, 3, 7}", "{1, 3, 7, 14}", "{1, 3, 7, 14, 28}"]
    assert [row.label for row in table.rows] == labels
    assert table.default == "{1, 3, 7, 14}"


def test_a_grid_without_room_for_a_scale_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing is left of 1 x 1"):
        paper_table("scales", grid=1)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_each_row_is_a_head_and_the_default_one_is_muse_s_own(name: str) -> None:
    head = HeadConfig(dim=16)
    table = paper_table(name, grid=7)  # type: ignore[arg-type]
    heads = {row.label: dataclasses.replace(head, **row.changes) for row in table.rows}
    assert heads[table.default] == head
    assert len({row.folder for row in table.rows}) == len(heads) == len(table.rows)


def test_folders_say_what_changes() -> None:
    rows = (*paper_table("depth", grid=7).rows, *paper_table("scales", grid=7).rows)
    names = {row.folder for row in rows}
    assert {"depth-0", "depth-16", "factors-none", "factors-0.5-1-2"} < names


def test_the_paper_prefers_its_own_head_in_all_tables_but_that_of_depth() -> None:
    for name in TABLE_NAMES:
        table = paper_table(name, grid=7)
        recalls = {row.label: row.paper.recall_at_1 for row in table.rows if row.paper}
        best = max(recalls, key=recalls.__getitem__)
        assert best == ("16" if name == "depth" else table.default)
        assert recalls[table.default] == 44.8
