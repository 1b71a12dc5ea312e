"""The agents of `hello.yaml`."""

from pathlib import Path

from planmesh import Context, agent
from planmesh.schemas.plan import Permissions


@agent(idempotent=True)
def write_greeting(who: str) -> dict[str, str]:
    """Think of something kind to say."""
    return {"text": f"Hello, {who}!"}


# Not idempotent: a second run would greet twice, so a step that calls it is begun at most once.
@agent(permissions=Permissions(write=("greetings.txt",)))
def send_greeting(text: str, context: Context) -> dict[str, str]:
    """Add a line to greetings.txt, in the worker's directory."""
    context.progress(f"sending {text!r}")
    with Path("greetings.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return {"sent": text}
