from urllib.parse import parse_qs, urlsplit

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Keys
from planmesh.gatekeeper.reach import Links, Reach
from planmesh.schemas.subjects import Address

DIRECTORY = Directory.model_validate(
    {
        "people": {
            "ada": {"channels": ["json://h/a", "json://h/b", "slack://x"]},
            "bob": {"email": "b&b@example.org"},
            "cleo": {},
        },
        "roles": {"cfo": {"members": ["ada"]}},
        "teams": {"finance": {"members": ["ada", "bob"]}, "ops": {"members": ["cleo"]}},
        "escalate_to": "role:cfo",
        "mail": "mailto://robot:secret@mail.example?to={email}",
    }
)


def test_reviewers_are_told_where_they_are_and_others_where_everybody_is() -> None:
    reach = Reach(DIRECTORY, ["json://room"])
    adas = {"ada-json", "ada-json-2", "ada-slack"}

    assert reach.channels_for(["role:cfo"]) == adas
    assert reach.channels_for(["team:finance"]) == {*adas, "bob-mailto"}
    assert reach.channels_for(["team:ops"]) == {"json"}
    assert reach.channels_for(["role:operator"]) == {"json"}
    assert reach.channels_for(["person:who-was-there-once"]) == {"json"}
    assert reach.channels_for(["service:billing"]) == set()
    assert reach.channels_for(["service:billing", "team:ops"]) == {"json"}
    assert reach.people == dict.fromkeys(adas, "ada") | {"bob-mailto": "bob"}


def test_an_address_cannot_break_out_of_the_url_of_the_mail_channel() -> None:
    assert Reach(DIRECTORY, []).urls["bob-mailto"] == "mailto://robot:secret@mail.example?to=b%26b@example.org"


def test_a_link_names_a_person_only_where_only_that_person_reads_it() -> None:
    keys = Keys(["k" * 32])
    links = Links("https://plans.example.org", keys, 60.0, clock=lambda: 100.0)
    here = Address("erp", "pay")

    assert links.to(here, "ok") == "https://plans.example.org/gates/erp/pay/ok"
    (token,) = parse_qs(urlsplit(links.to(here, "ok", "ada")).query)["link"]
    assert keys.read_link(token, here, "ok", 159.0).person == "ada"
