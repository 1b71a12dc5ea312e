from urllib.parse import parse_qs, urlsplit

import pytest

from planmesh.directory import Directory
from planmesh.errors import Unusable
from planmesh.gatekeeper.identity import Keys, Untrusted
from planmesh.gatekeeper.notify import Entry
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


def test_a_team_is_told_in_its_room_and_its_members_where_they_are() -> None:
    known = Directory.model_validate(
        {
            "people": {"ada": {"channels": ["json://h/a"]}, "bob": {}, "cleo": {}},
            "teams": {"finance": {"members": ["ada", "bob"], "channels": ["mmost://h/token123token"]}},
            "operators": "team:finance",
        }
    )
    reach = Reach(known, ["json://everybody"])

    assert reach.channels_for(["team:finance"]) == {"finance-mmost", "ada-json"}
    assert reach.channels_for(["role:operator"]) == {"finance-mmost", "ada-json"}
    assert reach.channels_for(["person:bob"]) == {"json"}
    assert reach.channels_for(["team:finance", "person:cleo"]) == {"finance-mmost", "ada-json", "json"}
    assert reach.people == {"ada-json": "ada"}


def test_channels_may_be_tags_of_an_apprise_configuration() -> None:
    known = Directory.model_validate({"people": {"ada": {"channels": ["tag:ada", "json://h"]}, "bob": {}}})
    chat, phone, mail = Entry("chat"), Entry("phone"), Entry("mail")
    reach = Reach(known, ["tag:finance chat"], {"finance chat": (chat, phone), "ada": (mail,)})

    assert reach.urls == {
        "finance-chat": chat,
        "finance-chat-2": phone,
        "ada-ada": mail,
        "ada-json": "json://h",
    }
    assert reach.channels_for(["person:bob"]) == {"finance-chat", "finance-chat-2"}
    assert "chat" not in repr(chat)


def test_a_tag_that_nobody_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(Unusable, match=r"no service has the tag 'finanse' .*; the tags there: finance, ops"):
        Reach(Directory(), ["tag:finanse"], {"ops": (), "finance": ()})
    with pytest.raises(Unusable, match=r"apprise_config is not set"):
        Reach(Directory(), ["tag:finance"])


def test_an_address_cannot_break_out_of_the_url_of_the_mail_channel() -> None:
    assert Reach(DIRECTORY, []).urls["bob-mailto"] == "mailto://robot:secret@mail.example?to=b%26b@example.org"


def test_a_link_names_a_person_only_where_only_that_person_reads_it() -> None:
    keys = Keys(["k" * 32])
    links = Links("https://plans.example.org", keys, 60.0, clock=lambda: 100.0)
    here = Address("erp", "pay")

    assert links.to(here, "ok") == "https://plans.example.org/gates/erp/pay/ok"
    (token,) = parse_qs(urlsplit(links.to(here, "ok", "ada")).query)["link"]
    assert keys.read_link(token, here, "ok", 159.0).person == "ada"
    with pytest.raises(Untrusted, match="expired"):
        keys.read_link(token, here, "ok", 160.0)
