"""A run's model card: what it says, and whose words stay."""

import pytest

from tests.support.runs import tiny, train_here
from tf_blurdiff.training import model_card

pytestmark = pytest.mark.usefixtures("small_network")


def test_a_run_describes_its_model(small_run):
    text = (small_run / "README.md").read_text()
    assert text.startswith("# run\n") and "A diffusion model, blurring, of 8x8 images" in text
    for fact in (
        "| images learned from | 1,797 of digits |", "| trained | 60 of 60 steps of 16 images, seed 0 |",
        "| sampling | ancestral2, 5 steps |", "| labels | none |", "| averaged_loss | 0.", "sigma_blur_max 4.0",
        "](samples/step_00000060.png)", "To be filled in: of the pictures",
    ):  # fmt: skip
        assert fact in text, fact


def test_what_is_below_the_line_stays_and_what_is_above_is_new(tmp_path):
    train_here(tmp_path, tiny(steps=10))
    path = tmp_path / "README.md"
    mine = "CC0: of the pictures, \xe4".encode("latin-1")  # Of another encoding, and other line ends.
    path.write_bytes(path.read_bytes().replace(b"To be filled in: of the pictures", mine) + b"\r\nmine\r\n")
    train_here(tmp_path, tiny(steps=20))
    text = path.read_bytes()
    assert b"20 of 20 steps" in text and b"10 of 10 steps" not in text
    assert mine in text and text.endswith(b"\r\nmine\r\n") and text.count(b"## Licence") == 1
    words = model_card.own_words(tmp_path)
    assert words.startswith("## Licence\n\nCC0: of the pictures, \ufffd") and words.endswith("mine")


def test_other_pictures_beside_the_sheets_do_not_matter(tmp_path):
    (tmp_path / "samples").mkdir()
    left = tmp_path / "samples" / ".step_00000010.writing.png"
    for path in (left, tmp_path / "samples" / "zoo.png", tmp_path / "samples" / "step_of_mine.png"):
        path.write_bytes(b"")
    train_here(tmp_path, tiny(steps=10))
    assert "](samples/step_00000010.png)" in (tmp_path / "README.md").read_text()
    assert not left.exists() and (tmp_path / "samples" / "zoo.png").exists()


def test_a_page_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    model_card.write_model_card(tmp_path, "a card")
    assert (tmp_path / "README.md").read_text() == "mine"
    assert model_card.own_words(tmp_path) is None


def test_there_are_no_words_where_nobody_wrote_any(small_run, tmp_path):
    assert model_card.own_words(small_run) is None and model_card.own_words(tmp_path) is None
