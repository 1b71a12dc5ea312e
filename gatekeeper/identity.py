"""Who somebody is who opens a review page: by a link that was sent to them, or by a proxy at which they signed in.

A link carries a token: this person, this gate, until then, signed. The form of a page carries another one, which
says what was shown and to whom, so that nobody else's page can post it (a CSRF token), and so that it decides what was
read and nothing newer. Pure but for `read_keys`; times are seconds since 1970.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeSerializer

from planmesh.credentials import private_directory
from planmesh.directory import Directory
from planmesh.errors import PlanmeshError, Unusable
from planmesh.schemas.subjects import Address

KEY_FILE: Final = "gatekeeper.keys"
FORM_LIFETIME_S: Final = 12 * 3600.0

_TOKEN_CHARACTERS: Final = 2_048
_KEY_CHARACTERS: Final = 32

Known: TypeAlias = Literal["link", "login"]
"""How somebody has shown who they are."""
Doubt: TypeAlias = Literal["forged", "expired", "other_gate", "other_person", "other_form", "not_the_proxy", "unknown"]


class Untrusted(PlanmeshError):
    """Somebody is not believed.

    Attributes:
        doubt: Why not.
    """

    def __init__(self, doubt: Doubt, said: str = "") -> None:
        self.doubt = doubt
        super().__init__(said or doubt)


class Link(NamedTuple):
    """What the token of a link says."""

    address: Address
    step: str
    person: str
    expires: int


class Form(NamedTuple):
    """What the token of a form says: who has been shown what.

    Attributes:
        nonce: Different for each page that is shown; a form that is sent twice is one answer.
        revision: Of the plan that was shown, where it is to be edited; 0 elsewhere.
    """

    address: Address
    step: str
    round: int
    digest: str
    person: str
    level: Known
    expires: int
    nonce: str
    revision: int = 0


class Visitor(NamedTuple):
    """Somebody who is believed."""

    person: str
    level: Known


class Keys:
    """What tokens are signed with.

    Args:
        keys: The newest first: it signs; the others are still believed, until they are taken out of the file.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or any(len(key) < _KEY_CHARACTERS for key in keys):
            raise Unusable(f"links are signed with keys of at least {_KEY_CHARACTERS} characters")
        # Its last key signs.
        oldest_first = [key.encode() for key in reversed(keys)]
        how = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._links = URLSafeSerializer(oldest_first, salt="planmesh.gatekeeper.link", signer_kwargs=how)
        self._forms = URLSafeSerializer(oldest_first, salt="planmesh.gatekeeper.form", signer_kwargs=how)

    def __repr__(self) -> str:
        return "<Keys>"

    def sign_link(self, link: Link) -> str:
        return _text(self._links.dumps([*link.address, link.step, link.person, link.expires]))

    def read_link(self, token: str, address: Address, step: str, now: float) -> Link:
        """What a link says that was opened at a gate's page. Raises: Untrusted."""
        match _loads(self._links, token):
            case [str(space), str(plan), str(gate), str(person), int(expires)]:
                link = Link(Address(space, plan), gate, person, expires)
            case _:
                raise Untrusted("forged")
        if (link.address, link.step) != (address, step):
            raise Untrusted("other_gate")
        if now >= link.expires:
            raise Untrusted("expired")
        return link

    def sign_form(self, form: Form) -> str:
        return _text(self._forms.dumps([*form.address, *form[1:]]))

    def read_form(self, token: str, address: Address, step: str, visitor: Visitor, now: float) -> Form:
        """What the form says that *visitor* posts to a gate's page. Raises: Untrusted."""
        match _loads(self._forms, token):
            case [
                str(space),
                str(plan),
                str(gate),
                int(number),
                str(digest),
                str(person),
                "link" | "login" as level,
                int(expires),
                str(nonce),
                int(revision),
            ]:
                form = Form(Address(space, plan), gate, number, digest, person, level, expires, nonce, revision)
            case _:
                raise Untrusted("other_form")
        if (form.address, form.step) != (address, step):
            raise Untrusted("other_gate")
        if (form.person, form.level) != visitor:
            raise Untrusted("other_person")
        if now >= form.expires:
            raise Untrusted("expired")
        return form


def _loads(serializer: URLSafeSerializer, token: str) -> Any:
    # What is not signed with a key of ours is not even decompressed.
    if not token.isascii() or len(token) > _TOKEN_CHARACTERS:
        return None
    try:
        return serializer.loads(token)
    except (BadData, ValueError):
        return None


def _text(token: "str | bytes") -> str:
    return token if isinstance(token, str) else token.decode()


class Proxy(NamedTuple):
    """A proxy at which people sign in.

    Attributes:
        user_header: The header in which it says who has.
        secret_header: The header in which it proves that it is the proxy.
        secret: What it proves it with; empty: there is no proxy.
    """

    user_header: str
    secret_header: str
    secret: str

    def signed_in(self, headers: Mapping[str, str], directory: Directory) -> Visitor | None:
        """Who has signed in; None: nobody has.

        Args:
            headers: Of the request, with names in lower case.

        Raises:
            Untrusted: Somebody names a user, and is not the proxy; or the proxy names somebody whom nobody knows.
        """
        said = headers.get(self.user_header.lower(), "").strip()
        if not said:
            return None
        proof = headers.get(self.secret_header.lower(), "")
        if not self.secret or not hmac.compare_digest(proof.encode(), self.secret.encode()):
            raise Untrusted("not_the_proxy", said[:200])
        person = directory.by_login(said)
        if person is None:
            raise Untrusted("unknown", said[:200])
        return Visitor(person, "login")


@dataclass(frozen=True, kw_only=True)
class Door:
    """What the review pages need to know about whoever comes.

    Attributes:
        directory: Who there is.
        keys: What tokens are signed with.
        proxy: Where people sign in.
        pages_url: Where people find the pages, without a slash at the end.
        sign_in_url: Where people sign in, if it is not there as well.
    """

    directory: Directory
    keys: Keys
    proxy: Proxy
    pages_url: str
    sign_in_url: str | None = None

    def visitor(
        self, headers: Mapping[str, str], token: str, address: Address, step: str, now: float
    ) -> Visitor | None:
        """Who opens the page of a gate; None: somebody who says nothing of it.

        Args:
            headers: Of the request, with names in lower case.
            token: Of the link; empty if there is none.

        Raises:
            Untrusted: What they say is not so.
        """
        signed_in = self.proxy.signed_in(headers, self.directory)
        if not token:
            return signed_in
        try:
            link = self.keys.read_link(token, address, step, now)
        except Untrusted as error:
            if signed_in is not None and error.doubt == "expired":
                return signed_in
            raise
        if signed_in is not None:
            if signed_in.person != link.person:
                raise Untrusted("other_person", link.person)
            return signed_in
        if link.person not in self.directory.people:
            raise Untrusted("unknown", link.person)
        return Visitor(link.person, "link")

    def is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether a form was posted by a page of ours.

        A page that names no referrer posts with the origin ``null``; then the browser's own word counts
        (``Sec-Fetch-Site``: it cannot be set by a page, and is sent over HTTPS and to this machine).
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site == "same-origin" and origin in (None, "null", self.origin)
        return origin == self.origin

    @property
    def origin(self) -> str:
        parts = urlsplit(self.pages_url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def base(self) -> str:
        """What paths begin with, where the pages are not at the root of their host."""
        return urlsplit(self.pages_url).path.rstrip("/")


def command_id(form: Form) -> str:
    """The id of the command that a form becomes: sent twice, it is one command."""
    return f"review-{hashlib.sha256(form.nonce.encode()).hexdigest()[:40]}"


def new_nonce() -> str:
    return secrets.token_urlsafe(12)


def read_keys(path: Path) -> Keys:
    """Read the file of keys, one a line, the newest first; make it, readable by its owner only, if there is none.

    To rotate, put a new line above the others; take the old one out once the links that it signed have expired.

    Raises:
        Unusable: It cannot be read or made, others may read it, or it has no usable key.
    """
    try:
        if not path.exists():
            _make(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Unusable(f"{path} signs links, and others than its owner can read it: chmod 600 {path}")
        lines = [line.strip() for line in path.read_text("ascii").splitlines()]
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"{path} has a character at byte {error.start} that no key has") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(len(key) < _KEY_CHARACTERS for key in keys):
        raise Unusable(
            f"{path} needs a key on each line, of at least {_KEY_CHARACTERS} characters (`openssl rand -hex 32` gives "
            "one). Without the file, a new one is made at the next start, and all links that were sent are void"
        )
    return Keys(keys)


def _make(path: Path) -> None:
    private_directory(path.parent)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(number, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
        # Another gatekeeper may be making it as well: whoever is first wins.
        with contextlib.suppress(FileExistsError):
            Path(path).hardlink_to(name)
    finally:
        Path(name).unlink(missing_ok=True)
