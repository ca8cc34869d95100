"""Who vouches for a bundle: an ed25519 signature beside its manifest.

The manifest holds the SHA-256 of every file, so a signature over its exact bytes covers the whole
bundle. Keys and the list of trusted keys have OpenSSH's forms: ``ssh-keygen -t ed25519`` makes a key,
and a line of its ``.pub`` file is a line of the list. ``read_bundle`` asks for no signature; whoever
is about to run native code from a bundle calls ``trusted_signer`` after it.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from fer_runtimes.bundle import MANIFEST, SIGNATURE, read_bundle
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.files import whole_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT = 1
# Stands before the manifest in what is signed. The same key may sign ssh logins and git commits:
# no signature made there can pass for one over a bundle, nor the other way round.
DOMAIN = b"fer-edge bundle v1\n"
KEY_TYPE = "ssh-ed25519"
LARGEST = 4096  # bytes of a signature file; a real one has about 250
INSTALL = "pip install '.[sign]' in fer-edge's checkout"


def trusted_keys_file() -> Path:
    """The list of trusted keys: ``$FER_TRUSTED_KEYS``, else ``fer-edge/trusted_keys`` in the user's configuration folder."""
    if named := os.environ.get("FER_TRUSTED_KEYS"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fer-edge" / "trusted_keys"


def read_key(path: Path) -> Ed25519PrivateKey:
    """An ed25519 private key in OpenSSH's or PEM form; the passphrase of an encrypted one is asked for on the terminal.

    Raises BadInput for what is not such a key, for a wrong passphrase, and where there is no terminal
    to ask on; NotAvailable where cryptography is not installed.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such key; make one with ssh-keygen -t ed25519") from None
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in raw else load_pem_private_key
    wrong = "not a private key in OpenSSH or PEM form, or a damaged one"
    if raw.startswith(KEY_TYPE.encode()):
        wrong = "a public key; give the private one, whose name has no .pub"
    try:
        try:
            key = load(raw, None)
        except TypeError:  # how cryptography says that the key is encrypted
            wrong = "the passphrase is wrong, or the key is damaged"
            key = load(raw, _passphrase(path))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: {wrong}") from error
    except UnsupportedAlgorithm as error:
        raise NotAvailable(
            f"{path}: {error}; signing takes an ed25519 key kept in a file, and bcrypt if it is encrypted: {INSTALL}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: the key is not ed25519; make one with ssh-keygen -t ed25519")
    return key


def sign_bundle(path: Path, key: Path | Ed25519PrivateKey) -> str:
    """Signs the bundle at ``path``, in place of any signature that it had, and returns the key's fingerprint.

    key: a file, or what ``read_key`` made of it. The fingerprint is as ``ssh-keygen -l`` prints it.

    Raises BadInput if the bundle's files are not those of its manifest, and what ``read_key`` raises;
    the bundle is then as it was.
    """
    private = read_key(key) if isinstance(key, Path) else key
    manifest = _manifest(path)
    read_bundle(path)
    public = private.public_key()
    content = {
        "format": FORMAT,
        "public_key": _openssh(public),
        "signature": b64encode(private.sign(DOMAIN + manifest)).decode(),
    }
    with whole_file(path / SIGNATURE) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return _fingerprint(public)


def trusted_signer(path: Path) -> str | None:
    """The name of the trusted key that signed the manifest at ``path``, or None if nothing did.

    The name is the key's comment in the list of trusted keys, else its fingerprint. The files that
    the manifest names are checked by ``read_bundle``, not here.

    Raises BadInput if the signature is damaged, is not of this manifest, or is by a key that is not
    trusted; NotAvailable if there is a signature and no cryptography to check it with.
    """
    file = path / SIGNATURE
    try:
        facts = file.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST:
        raise BadInput(f"{file}: not a signature, which is a plain file of at most {LARGEST} bytes; refused")
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature

    public, signature = _parse(file)
    try:
        public.verify(signature, DOMAIN + _manifest(path))
    except InvalidSignature as error:
        raise BadInput(
            f"{file}: the signature is not of this {MANIFEST}, one of the two was altered; fetch the bundle again"
        ) from error
    listed = trusted_keys_file()
    names = _trusted(listed)
    if (line := _openssh(public)) not in names:
        raise BadInput(
            f"{path}: signed by {_fingerprint(public)}, which is not among the trusted keys; if its owner confirms this "
            f"fingerprint to you, add the line '{line} NAME' to {listed}"
        )
    return names[line]


def _need_cryptography() -> None:
    try:
        import cryptography.exceptions  # noqa: F401
    except ImportError as error:
        raise NotAvailable(f"signatures need cryptography, not installed here; {INSTALL}") from error


def _passphrase(path: Path) -> bytes:
    # Without a terminal getpass would read, and echo, whatever standard input is.
    if not sys.stdin.isatty():
        raise BadInput(
            f"{path}: the key is encrypted and there is no terminal to ask for its passphrase; run this in one"
        )
    from getpass import getpass

    try:
        return getpass(f"Passphrase of {path}: ").encode()
    except EOFError:
        raise BadInput(f"{path}: the key is encrypted and no passphrase was given") from None


def _manifest(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{path}: not a bundle, it has no {MANIFEST}; make one with fer-export") from None


def _parse(file: Path) -> tuple[Ed25519PublicKey, bytes]:
    """The key and the signature that a signature file holds. It may be a stranger's: messages repeat nothing of it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise BadInput(f"{file}: a signature of another format, this version reads {FORMAT}")
        public = load_ssh_public_key(content["public_key"].encode())
        signature = b64decode(content["signature"], validate=True)
        if b64encode(signature).decode() != content["signature"]:  # bits after the end, which b64decode drops
            raise ValueError("base64")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{file}: not a signature ({type(error).__name__}); fetch the bundle again") from error
    if not isinstance(public, Ed25519PublicKey):
        raise BadInput(f"{file}: signed with a key that is not ed25519; refused")
    return public, signature


def _trusted(file: Path) -> dict[str, str]:
    """Name of each ed25519 key of an ``authorized_keys`` file; keys of other types sign no bundles and are passed over.

    Raises BadInput for a line with options (``expiry-time=…``): to pass over them would be to trust
    more than the line does.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    names = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if KEY_TYPE not in words or line.lstrip().startswith("#"):
            continue
        if words[0] != KEY_TYPE:
            raise BadInput(f"{file}, line {number}: options before the key are not supported; leave '{KEY_TYPE} …'")
        try:
            key = load_ssh_public_key(" ".join(words[:2]).encode())
        except ValueError as error:
            raise BadInput(f"{file}, line {number}: not a key; copy the line of the .pub file again") from error
        assert isinstance(key, Ed25519PublicKey)
        names[_openssh(key)] = " ".join(words[2:]) or _fingerprint(key)
    return names


def _openssh(key: Ed25519PublicKey) -> str:
    """``ssh-ed25519 AAAA…``, without a comment: the one text that each key has."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _fingerprint(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import ssh_key_fingerprint

    return "SHA256:" + b64encode(ssh_key_fingerprint(key, SHA256())).decode().rstrip("=")
