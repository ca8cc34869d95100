from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from conftest import public_of, write_key
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ecdsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

from fer_runtimes.bundle import MANIFEST, SIGNATURE, Manifest, read_bundle, write_manifest
from fer_runtimes.errors import BadInput
from fer_runtimes.signing import LARGEST, read_key, sign_bundle, trusted_keys_file, trusted_signer

PASSPHRASE = b"correct horse"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A whole bundle for whatever needs no engine."""
    folder = tmp_path / "net-onnx-fp32"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(range(256)))
    shape = {"shape": ["N", 1, 48, 48], "dtype": "uint8", "crop": 1.0}
    write_manifest(
        folder,
        Manifest(
            "net-onnx-fp32",
            "onnx",
            "fp32",
            shape,
            source={"folded": True, "checkpoint_sha256": ""},
            versions={},
            files={},
        ),
    )
    return folder


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of trusted keys, empty."""
    path = tmp_path / "trusted_keys"
    path.touch()
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(path))
    return path


def ssh_keygen(*arguments: object) -> str:
    if (program := shutil.which("ssh-keygen")) is None:
        pytest.skip("ssh-keygen is not here")
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "alice")


@pytest.fixture
def signed(bundle: Path, key: Path, trusted: Path) -> Path:
    """The bundle, signed by a trusted key."""
    sign_bundle(bundle, key)
    trusted.write_text(public_of(key).read_text())
    assert trusted_signer(bundle) == "alice"
    return bundle


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE.decode()])
def test_a_key_of_ssh_keygen_signs_and_its_fingerprint_is_the_one_that_ssh_keygen_prints(
    bundle: Path, tmp_path: Path, trusted: Path, passphrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "id_ed25519"
    ssh_keygen("-q", "-t", "ed25519", "-N", passphrase, "-C", "carol of the lab", "-f", key)
    if passphrase:
        done, screen = sign_on_a_terminal(bundle, key, passphrase)
        fingerprint = done.stdout.strip()
        assert passphrase not in screen
    else:
        fingerprint = sign_bundle(bundle, key)
    assert ssh_keygen("-l", "-f", key).split()[1] == fingerprint
    trusted.write_text(public_of(key).read_text())
    assert trusted_signer(bundle) == "carol of the lab"


def test_a_key_without_a_comment_goes_by_its_fingerprint(bundle: Path, key: Path, trusted: Path) -> None:
    fingerprint = sign_bundle(bundle, key)
    trusted.write_text(" ".join(public_of(key).read_text().split()[:2]))
    assert trusted_signer(bundle) == fingerprint


def test_a_key_in_pem_form_signs(bundle: Path, tmp_path: Path, trusted: Path) -> None:
    sign_bundle(bundle, key := write_key(tmp_path / "pem", form=PrivateFormat.PKCS8))
    trusted.write_text(public_of(key).read_text())
    assert trusted_signer(bundle) == "pem"


def test_a_bundle_without_a_signature_has_no_signer(bundle: Path, trusted: Path) -> None:
    assert trusted_signer(bundle) is None


def test_a_signed_bundle_reads_as_before_and_the_signature_is_not_among_its_files(bundle: Path, key: Path) -> None:
    before = read_bundle(bundle)
    sign_bundle(bundle, key)
    assert read_bundle(bundle) == before
    assert {path.name for path in bundle.iterdir()} == {"model.onnx", MANIFEST, SIGNATURE}


def test_a_new_manifest_drops_the_signature_of_the_old_one(signed: Path) -> None:
    write_manifest(signed, read_bundle(signed).manifest)
    assert trusted_signer(signed) is None
    assert list(read_bundle(signed).manifest.files) == ["model.onnx"]


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_any_altered_byte_of_the_manifest_or_of_the_signature_is_refused(signed: Path, name: str) -> None:
    raw = (signed / name).read_bytes()
    for i in range(len(raw)):
        (signed / name).write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        with pytest.raises(BadInput):
            trusted_signer(signed)
    (signed / name).write_bytes(raw)
    assert trusted_signer(signed) == "alice"


def test_an_altered_model_is_refused_by_reading_and_is_not_signed(signed: Path, key: Path) -> None:
    (signed / SIGNATURE).unlink()
    raw = bytearray((signed / "model.onnx").read_bytes())
    raw[100] ^= 1
    (signed / "model.onnx").write_bytes(raw)
    with pytest.raises(BadInput, match="its contents are not those"):
        read_bundle(signed)
    with pytest.raises(BadInput, match="its contents are not those"):
        sign_bundle(signed, key)
    assert not (signed / SIGNATURE).exists()


def test_hashes_made_to_match_an_altered_model_need_a_new_signature(signed: Path) -> None:
    signature = (signed / SIGNATURE).read_bytes()
    (signed / "model.onnx").write_bytes(b"another model")
    write_manifest(signed, read_manifest_unchecked(signed))
    (signed / SIGNATURE).write_bytes(signature)
    read_bundle(signed)
    with pytest.raises(BadInput, match="the signature is not of this"):
        trusted_signer(signed)


def read_manifest_unchecked(path: Path) -> Manifest:
    content = json.loads((path / MANIFEST).read_text())
    return Manifest(**{**content, "labels": tuple(content["labels"])})


def test_a_stranger_who_names_the_trusted_key_is_refused(signed: Path, tmp_path: Path) -> None:
    ours = json.loads((signed / SIGNATURE).read_text())
    sign_bundle(signed, write_key(tmp_path / "mallory"))
    theirs = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps(theirs | {"public_key": ours["public_key"]}))
    with pytest.raises(BadInput, match="the signature is not of this"):
        trusted_signer(signed)


def test_a_signature_that_the_key_made_for_something_else_is_refused(signed: Path, key: Path) -> None:
    """Over the bare manifest, as another program might sign it: the prefix sets ours apart."""
    content = json.loads((signed / SIGNATURE).read_text())
    content["signature"] = b64encode(read_key(key).sign((signed / MANIFEST).read_bytes())).decode()
    (signed / SIGNATURE).write_text(json.dumps(content))
    with pytest.raises(BadInput, match="the signature is not of this"):
        trusted_signer(signed)


@pytest.mark.parametrize("exists", [True, False])
def test_a_key_that_is_not_trusted_is_refused_with_the_line_that_would_trust_it(
    signed: Path, tmp_path: Path, trusted: Path, exists: bool
) -> None:
    if not exists:
        trusted.unlink()
    fingerprint = sign_bundle(signed, write_key(tmp_path / "bob"))
    with pytest.raises(BadInput, match="not among the trusted keys") as refusal:
        trusted_signer(signed)
    assert fingerprint in str(refusal.value)
    assert str(refusal.value).endswith(f" to {trusted}")
    with trusted.open("a") as file:
        file.write(str(refusal.value).split("'")[1])
    assert trusted_signer(signed) == "NAME"


def test_the_list_may_hold_comments_and_keys_of_other_types(signed: Path, tmp_path: Path, trusted: Path) -> None:
    rsa = public_of(write_key(tmp_path / "rsa", generate_rsa(65537, 2048))).read_text()
    trusted.write_text(f"# the lab\n\n{rsa}  {trusted.read_text()}")
    assert trusted_signer(signed) == "alice"
    trusted.write_text("".join(f"  # {line}" for line in trusted.read_text().splitlines(keepends=True)))
    with pytest.raises(BadInput, match="not among the trusted keys"):
        trusted_signer(signed)


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('expiry-time="20200101",command="a b" ', "", "line 2: options before the key are not supported"),
        ("cert-authority ", "", "line 2: options before the key are not supported"),
        ("ssh-ed25519 AAAA", " x", "line 2: not a key"),
        ("ssh-ed25519 ", " x", "line 2: not a key"),
    ],
)
def test_a_line_of_the_list_that_cannot_be_honoured_is_named(
    signed: Path, trusted: Path, before: str, after: str, complaint: str
) -> None:
    trusted.write_text(f"# first\n{before}{trusted.read_text().strip()}{after}\n")
    with pytest.raises(BadInput, match=complaint):
        trusted_signer(signed)


def test_the_list_is_in_the_users_configuration_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FER_TRUSTED_KEYS", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert trusted_keys_file() == tmp_path / ".config/fer-edge/trusted_keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert trusted_keys_file() == tmp_path / "xdg/fer-edge/trusted_keys"
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(tmp_path / "mine"))
    assert trusted_keys_file() == tmp_path / "mine"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"[]", b"7", b"[" * (LARGEST - 1), b'{"format": 2}', b'{"format": 1}'],
    ids=["empty", "bytes", "list", "number", "deep", "format 2", "no keys"],
)
def test_what_is_no_signature_is_refused(signed: Path, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BadInput, match="signature"):
        trusted_signer(signed)


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": None},
        {"public_key": "ssh-stranger AAAA"},
        {"signature": "AAAA"},
        {"signature": "stranger"},
        {"signature": None},
    ],
)
def test_a_damaged_entry_is_refused_and_not_repeated_on_the_screen(signed: Path, change: dict[str, object]) -> None:
    content = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps(content | change))
    with pytest.raises(BadInput, match="signature") as refusal:
        trusted_signer(signed)
    assert "stranger" not in str(refusal.value)


def test_a_signature_has_one_spelling(signed: Path) -> None:
    """The last letter before the padding holds four spare bits, which base64 decoders pass over."""
    content = json.loads((signed / SIGNATURE).read_text())
    letters = content["signature"].rstrip("=")
    content["signature"] = letters[:-1] + chr(ord(letters[-1]) + 1) + "=="
    (signed / SIGNATURE).write_text(json.dumps(content))
    with pytest.raises(BadInput, match="not a signature"):
        trusted_signer(signed)


def test_a_signature_by_another_type_of_key_is_refused(signed: Path, tmp_path: Path) -> None:
    rsa = public_of(write_key(tmp_path / "rsa", generate_rsa(65537, 2048))).read_text()
    content = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps(content | {"public_key": rsa}))
    with pytest.raises(BadInput, match="not ed25519"):
        trusted_signer(signed)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "huge"])
def test_a_signature_that_is_no_small_plain_file_is_refused(signed: Path, tmp_path: Path, kind: str) -> None:
    file = (signed / SIGNATURE).rename(tmp_path / "kept")
    make = {
        "link": lambda path: path.symlink_to(file),
        "dangling link": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "huge": lambda path: path.write_bytes(file.read_bytes() + b" " * LARGEST),
    }
    make[kind](signed / SIGNATURE)
    with pytest.raises(BadInput, match="plain file of at most"):
        trusted_signer(signed)


def test_a_signature_whose_manifest_is_gone_is_refused(signed: Path, key: Path) -> None:
    (signed / MANIFEST).unlink()
    with pytest.raises(BadInput, match="not a bundle"):
        trusted_signer(signed)
    with pytest.raises(BadInput, match="not a bundle"):
        sign_bundle(signed, key)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("rsa", "the key is not ed25519"),
        ("ecdsa", "the key is not ed25519"),
        ("ed448", "the key is not ed25519"),
        ("text", "not a private key"),
        ("cut", "not a private key"),
        ("alice.pub", ": a public key; give the private one"),
        ("absent", "no such key; make one with ssh-keygen"),
        ("encrypted", "no terminal to ask for its passphrase"),
        ("encrypted pem", "no terminal to ask for its passphrase"),
    ],
)
def test_a_key_that_cannot_sign_is_refused_and_the_old_signature_stays(
    signed: Path, key: Path, tmp_path: Path, name: str, complaint: str
) -> None:
    write_key(tmp_path / "rsa", generate_rsa(65537, 2048))
    write_key(tmp_path / "ecdsa", generate_ecdsa(SECP256R1()))
    write_key(tmp_path / "ed448", Ed448PrivateKey.generate(), PrivateFormat.PKCS8)
    write_key(tmp_path / "encrypted", encryption=BestAvailableEncryption(PASSPHRASE))
    write_key(tmp_path / "encrypted pem", form=PrivateFormat.PKCS8, encryption=BestAvailableEncryption(PASSPHRASE))
    (tmp_path / "text").write_text("not a key")
    (tmp_path / "cut").write_bytes(key.read_bytes()[:200])
    with pytest.raises(BadInput, match=complaint):
        sign_bundle(signed, tmp_path / name)
    assert trusted_signer(signed) == "alice"


SIGN = """
import sys
from pathlib import Path
from fer_runtimes.errors import FerError
from fer_runtimes.signing import sign_bundle
try:
    print(sign_bundle(Path(sys.argv[1]), Path(sys.argv[2])))
except FerError as error:
    sys.exit(str(error))
"""


def sign_on_a_terminal(bundle: Path, key: Path, passphrase: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Signs in a process whose standard input is a terminal, types the passphrase, and returns what the terminal showed."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-W", "ignore", "-c", SIGN, str(bundle), str(key)]
    with subprocess.Popen(
        arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr is not None
        prompt = f"Passphrase of {key}: ".encode()
        assert process.stderr.read(len(prompt)) == prompt
        os.write(ours, passphrase.encode() + b"\n")
        out, err = process.communicate(timeout=60)
    os.write(theirs, b"end\n")
    screen = b""
    while not screen.endswith(b"end\r\n"):
        screen += os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    return subprocess.CompletedProcess(arguments, process.returncode, out.decode(), err.decode()), screen.decode()


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
def test_a_passphrase_is_asked_for_on_the_terminal_and_a_wrong_one_is_refused(
    bundle: Path, tmp_path: Path, trusted: Path, form: PrivateFormat
) -> None:
    key = write_key(tmp_path / "dora", form=form, encryption=BestAvailableEncryption(PASSPHRASE))
    trusted.write_text(public_of(key).read_text())
    wrong, _ = sign_on_a_terminal(bundle, key, "battery staple")
    assert wrong.returncode == 1
    assert "the passphrase is wrong" in wrong.stderr
    assert trusted_signer(bundle) is None
    right, _ = sign_on_a_terminal(bundle, key, PASSPHRASE.decode())
    assert right.returncode == 0, right.stderr
    assert trusted_signer(bundle) == "dora"


def test_an_encrypted_key_without_bcrypt_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "dora", encryption=BestAvailableEncryption(PASSPHRASE))
    code = "import sys; sys.modules['bcrypt'] = None\nsys.stdin.isatty = lambda: True\nimport getpass; getpass.getpass = lambda _: 'x'\n"
    done = subprocess.run(
        [sys.executable, "-c", code + SIGN, str(bundle), str(key)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install '.[sign]' in fer-edge's checkout")
    assert "Traceback" not in done.stderr


def test_a_signature_that_cannot_be_written_leaves_the_bundle_as_it_was(signed: Path, key: Path) -> None:
    before = (signed / SIGNATURE).read_bytes()
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    done = subprocess.run(
        [sys.executable, "-c", full + SIGN, str(signed), str(key)], capture_output=True, text=True, timeout=60
    )
    assert "File too large" in done.stderr
    assert (signed / SIGNATURE).read_bytes() == before
    assert {path.name for path in signed.iterdir()} == {"model.onnx", MANIFEST, SIGNATURE}
