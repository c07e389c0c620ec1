"""The table of docs/zoo.md: rows are kept, an interrupted run goes on, the page keeps the rest of its text."""

import json

import pytest
import torch

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo import model_table

PAGE = f"# Zoo\n\n{model_table.BEGIN}\nold\n{model_table.END}\n\nThe end.\n"


def row(name, backend, size, *, green=True):
    return model_table.Row(name, backend, size, 1234, "exact", "2 replace", "9 passed", "9 passed", green, 1.0)


def test_a_run_that_was_interrupted_goes_on_and_the_page_keeps_its_text(tmp_path, monkeypatch, capsys):
    page, rows, asked = tmp_path / "zoo.md", tmp_path / "rows.jsonl", []
    page.write_text(PAGE)

    def examined(name, backend, size):
        asked.append((name, backend, size))
        return "it broke" if len(asked) == 2 else row(name, backend, size)

    monkeypatch.setattr(model_table, "_in_process", examined)
    words = ["--only", "cg", "-o", str(page), "--rows", str(rows)]
    assert model_table.main(words) == 1
    assert len(asked) == 4
    assert "it broke" in capsys.readouterr().out
    assert model_table.main(words) == 0
    assert asked[4:] == [asked[1]]
    text = page.read_text()
    assert text.startswith("# Zoo\n")
    assert text.endswith("The end.\n")
    assert "old" not in text
    assert text.count("| 1,234 |") == 4
    assert len([json.loads(line) for line in rows.read_text().splitlines()]) == 4


def test_a_model_that_is_not_green_makes_the_command_fail(monkeypatch):
    monkeypatch.setattr(model_table, "_in_process", lambda *key: row(*key, green=key[0] != "cgcnn"))
    assert model_table.main(["--only", "cg", "--size", "small"]) == 1
    assert model_table.main(["--only", "cgconv", "--size", "small"]) == 0


def test_a_page_without_a_place_for_the_table_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(model_table, "_in_process", lambda *key: pytest.fail("it began"))
    (tmp_path / "page.md").write_text("# Zoo\n")
    with pytest.raises(BadInput, match="no place for the table"):
        model_table.main(["-o", str(tmp_path / "page.md")])


def test_weights_that_start_at_0_are_drawn_without_disturbing_the_callers_numbers():
    model = zoo.build("dimenet++", output_initializer="zeros")
    batch = zoo.example_batch()
    assert not zoo.energy(model, batch).any()
    torch.manual_seed(5)
    woken = model_table.wake(model)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert [name.rpartition(".")[0] for name in woken] == [f"output_blocks.{i}.lin" for i in range(3)]
    assert zoo.energy(model, batch).all()
    assert model_table.wake(model) == []


@pytest.mark.exam
def test_a_small_model_is_green(capsys):
    assert model_table.main(["--one", "forcenet", "pyg", "small"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["green"], found
    assert found["parameters"] == 27_894
