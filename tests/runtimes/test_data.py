from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_runtimes.data import TEST_SPLITS, TRAIN_SPLITS, also_in_training, load_faces
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare, read_grey
from fer_runtimes.labels import LABELS

ROW = "3," + " ".join(["7"] * 2304) + ",Training"
HEADER = "emotion,pixels,Usage"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zip"])
def test_a_csv_reads_the_same_plain_or_packed(csv_file: Path, tmp_path: Path, suffix: str) -> None:
    packed = tmp_path / f"fer2013.csv{suffix}"
    raw = csv_file.read_bytes()
    if suffix == ".zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("fer2013.csv", raw)
    else:
        packed.write_bytes({"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix](raw))
    faces = load_faces(packed, TEST_SPLITS)
    expected = drawn_faces(70, 4)
    assert faces.split == "PublicTest"
    np.testing.assert_array_equal(faces.images, expected.images)
    np.testing.assert_array_equal(faces.labels, expected.labels)


def test_the_kaggle_variant_with_reordered_spaced_columns_reads(tmp_path: Path) -> None:
    path = tmp_path / "icml_face_data.csv"
    path.write_text("emotion, Usage, pixels\n3,Training," + " ".join(["9"] * 2304) + "\n")
    assert load_faces(path, TRAIN_SPLITS).images[0, 0, 0] == 9


def test_the_folder_form_reads_with_classes_from_folder_names(tmp_path: Path) -> None:
    drawn = drawn_faces(14, 1)
    for split in ("train", "test"):
        for i, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            folder = tmp_path / split / LABELS[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    faces = load_faces(tmp_path, TEST_SPLITS)
    assert faces.split == "test"
    assert sorted(faces.labels) == sorted(drawn.labels)
    np.testing.assert_array_equal(faces.images[0], drawn.images[0])


def test_a_csv_is_parsed_once_and_then_memory_mapped(csv_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_faces(csv_file, TEST_SPLITS)
    monkeypatch.setattr("fer_runtimes.data._read_csv", lambda _: pytest.fail("parsed again"))
    images = load_faces(csv_file, TEST_SPLITS).images
    assert isinstance(images, np.memmap)


def test_votes_join_their_images_by_row(csv_file: Path, tmp_path: Path) -> None:
    votes = tmp_path / "fer2013new.csv"
    columns = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes.write_text("\n".join([columns, *(f"Training,f{i}.png,{i},0,0,0,1,0,0,0,0,0" for i in range(70))]))
    faces = load_faces(csv_file, TRAIN_SPLITS, votes)
    assert faces.votes is not None
    assert faces.votes[9].tolist() == [1, 0, 0, 0, 0, 0, 9]


def test_votes_of_another_data_set_are_refused(csv_file: Path, tmp_path: Path) -> None:
    votes = tmp_path / "fer2013new.csv"
    votes.write_text("Usage,neutral,happiness,surprise,sadness,anger,disgust,fear\nTraining,1,0,0,0,0,0,0\n")
    with pytest.raises(BadInput, match="1 rows of Training, expected 70"):
        load_faces(csv_file, TRAIN_SPLITS, votes)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (ROW.replace("7 7", "7", 1), r"row 3: 2303 pixels, expected 2304"),
        (ROW.replace("7 7", "256 7", 1), r"row 3: pixel value 256 outside 0..255"),
        (ROW.replace("7 7", "-1 7", 1), r"row 3: pixel value -1 outside 0..255"),
        (ROW.replace("7 7", "x 7", 1), r"row 3: a pixel is not a whole number"),
        ("7" + ROW[1:], r"row 3: unknown class '7'"),
        ("happy" + ROW[1:], r"row 3: unknown class 'happy'"),
        ("3,7 7", r"row 3: 2 columns, expected 3"),
    ],
)
def test_a_bad_row_is_named_with_its_cause(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        load_faces(write(tmp_path / "bad.csv", ROW, row), TRAIN_SPLITS)


def test_an_empty_split_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="split PublicTest or test is empty; it has Training"):
        load_faces(write(tmp_path / "one.csv", ROW), TEST_SPLITS)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zip"])
def test_a_truncated_archive_is_an_error_and_leaves_no_cache(
    tmp_path: Path, csv_file: Path, suffix: str, own_cache: Path
) -> None:
    raw = csv_file.read_bytes()
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013.csv", raw)
    else:
        whole.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}[suffix](raw))
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    before = set((own_cache / "data").iterdir())
    with pytest.raises(BadInput, match="truncated"):
        load_faces(cut, TEST_SPLITS)
    assert set((own_cache / "data").iterdir()) == before


def test_an_archive_with_an_altered_byte_is_refused_in_a_line(tmp_path: Path, csv_file: Path) -> None:
    whole = gzip.compress(csv_file.read_bytes()[:100_000])
    refused = 0
    for place in range(10, len(whole), len(whole) // 40):
        raw = bytearray(whole)
        raw[place] ^= 0x10
        (tmp_path / "one.csv.gz").write_bytes(raw)
        try:
            load_faces(tmp_path / "one.csv.gz", TEST_SPLITS)
        except BadInput:
            refused += 1
    assert refused >= 40


def test_a_stray_file_among_the_classes_is_passed_over(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "happy").mkdir(parents=True)
        Image.new("L", (48, 48)).save(tmp_path / split / "happy" / "a.png")
        (tmp_path / split / ".DS_Store").write_text("")
    assert len(load_faces(tmp_path, TEST_SPLITS)) == 1


def test_a_file_that_is_not_fer2013_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="no column emotion, pixels, Usage; found a, b"):
        load_faces(path, TEST_SPLITS)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        load_faces(tmp_path / "none.csv", TEST_SPLITS)


def test_drawn_faces_are_the_same_for_the_same_seed_and_say_what_they_are() -> None:
    assert drawn_faces(7, 1).sha256 == drawn_faces(7, 1).sha256 != drawn_faces(7, 2).sha256
    assert drawn_faces(7, 1).name == "drawn-faces"


def test_prepare_crops_to_the_centre_square_and_resizes() -> None:
    wide = np.zeros((1, 48, 96), np.uint8)
    wide[:, :, 24:72] = 200
    assert (prepare(wide, 48) == 200).all()
    assert prepare(wide, 64).shape == (1, 1, 64, 64)
    framed = np.full((1, 48, 48), 9, np.uint8)
    framed[:, 3:45, 3:45] = 100
    assert prepare(framed, 48, crop=0.875).min() > 50
    with pytest.raises(BadInput, match="crop is 0"):
        prepare(framed, 48, crop=0)
    with pytest.raises(BadInput, match=r"expected uint8 \[N, H, W\]"):
        prepare(wide.astype(np.float32), 48)


def test_a_picture_reads_as_grey(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_grey(tmp_path / "red.png").shape == (4, 5)
    (tmp_path / "not.png").write_text("no picture")
    with pytest.raises(BadInput, match="not a readable picture"):
        read_grey(tmp_path / "not.png")


def test_copies_of_training_images_are_marked(tmp_path: Path) -> None:
    other = ROW.replace("7 7", "8 8", 1)
    path = write(
        tmp_path / "copies.csv", ROW, ROW.replace("Training", "PublicTest"), other.replace("Training", "PublicTest")
    )
    assert also_in_training(path, load_faces(path, TEST_SPLITS)).tolist() == [True, False]
    assert also_in_training(path, load_faces(path, TRAIN_SPLITS)).tolist() == [False]


def test_fer2013_has_the_published_counts(fer2013: Path) -> None:
    assert len(load_faces(fer2013, TRAIN_SPLITS)) == 28_709
    assert len(load_faces(fer2013, TEST_SPLITS)) == 3_589


def test_fer2013_holds_the_known_copies(fer2013: Path) -> None:
    assert also_in_training(fer2013, load_faces(fer2013, TEST_SPLITS)).sum() == 280
