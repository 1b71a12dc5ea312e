"""The review pages of a mesh, and a browser without anything in it."""

import re
import time
from html import unescape
from typing import Any

import httpx
from reviews import Clerk

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Keys, Link
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.subjects import Address

HERE = Address("tester", "pay")
SECRET = "s" * 32
NASTY = "<script>alert(1)</script> @everyone \u202egpj.exe \x1b[31m\r\nBcc: x"
DIRECTORY = Directory.model_validate(
    {
        "people": {
            "ada": {"name": "Ada Lovelace", "email": "ada@example.org"},
            "bob": {},
            "cleo": {},
            "dan": {"name": NASTY.encode("ascii", "ignore").decode().replace("\x1b", "").replace("\r\n", "")},
        },
        "teams": {"finance": {"members": ["ada", "bob", "dan"]}},
        "roles": {"cfo": {"members": ["cleo"]}},
        "escalate_to": "role:cfo",
    }
)


class Site:
    """The pages, and a browser without anything in it."""

    def __init__(self, url: str, keys: Keys, http: httpx.AsyncClient, clerk: Clerk) -> None:
        self.url = url
        self.keys = keys
        self.http = http
        self.clerk = clerk

    def link(self, person: str = "ada", step: str = "ok", address: Address = HERE, expires_in_s: float = 60.0) -> str:
        token = self.keys.sign_link(Link(address, step, person, int(time.time() + expires_in_s)))
        return f"{self.path(step, address)}?link={token}"

    def path(self, step: str = "ok", address: Address = HERE) -> str:
        return f"/gates/{address.space}/{address.plan}/{step}"

    async def read(self, where: str, **headers: str) -> tuple[int, str]:
        answer = await self.http.get(where, headers=headers)
        return answer.status_code, unescape(answer.text)

    async def form(self, where: str, **headers: str) -> str:
        """The token of the form that is shown there."""
        _, text = await self.read(where, **headers)
        found = re.search(r'name="form" value="([^"]+)"', text)
        assert found is not None, text
        return found[1]

    async def post(self, where: str, *, form: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": "null"} | (headers or {})
        return await self.http.post(where, data={"form": form, **fields}, headers=headers)

    async def answer(self, where: str, decision: str, **fields: str) -> tuple[int, str]:
        """Read the page, and send its form; then read what follows."""
        answer = await self.post(where, form=await self.form(where), decision=decision, **fields)
        if answer.status_code == 303:
            assert answer.headers["location"].endswith(where)
            return await self.read(where)
        return answer.status_code, unescape(answer.text)

    async def events(self, address: Address = HERE) -> list[AnyEvent]:
        return [event async for line in self.clerk.log.lines(address) for event in line.commit.events]


def signed_in(as_: str) -> dict[str, str]:
    return {"X-User": as_, "X-Proof": SECRET}
