"""The documents say what the code does: nothing is missing, nothing is made up."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from msgspec import Struct

import planmesh
from planmesh import contract, reference, schemas
from planmesh.cli import COMPLETED, FAILED, USAGE, main
from planmesh.contract import CHANNELS, Plain
from planmesh.schemas import plan, subjects
from planmesh.schemas.commands import VERBS, ReportResult

SCHEMAS = contract.json_schemas()
ROOT = Path(planmesh.__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(contract.asyncapi("1.2.3", contract.golden())))
    return found


# --- nothing is missing ------------------------------------------------------------------------------------


def test_every_subject_has_a_channel() -> None:
    made = [
        function
        for name, function in inspect.getmembers(subjects, inspect.isfunction)
        if function.__module__ == subjects.__name__ and not name.startswith(("_", "read_"))
        if inspect.signature(function).return_annotation is str
    ]

    subject_of = {function.__name__: contract.template(function) for function in made}

    # The others are names of consumers (no dot), patterns to subscribe to, and the server's own.
    wanted = {
        name for name, subject in subject_of.items() if "." in subject and "*" not in subject and "$" not in subject
    }
    known = {contract.template(channel.subject) for channel in CHANNELS}
    missing = sorted(name for name in wanted if subject_of[name] not in known)
    assert not missing, f"add to planmesh.contract.CHANNELS what is published on the subjects of: {', '.join(missing)}"


def test_every_message_type_is_part_of_a_message() -> None:
    known = contract.structs([one for one in contract.messages() if not isinstance(one, Plain)])
    known |= contract.structs([plan.Plan])
    # A result becomes one inside the executor, and travels in `Results`; options of a model are inputs of a step.
    elsewhere = (ReportResult, plan.ModelOptions)
    missing = sorted(one.__qualname__ for one in message_types() if one not in known and one not in elsewhere)
    assert not missing, (
        f"nothing in planmesh.contract.CHANNELS contains {', '.join(missing)}: say where it is published"
    )


def message_types() -> Iterator[type[Struct]]:
    """Every struct of the modules of messages that no other one is made from."""
    for info in pkgutil.iter_modules(schemas.__path__):
        if info.name in {"state", "expressions", "templates", "codec"}:  # what messages mean, not what they are
            continue
        module = importlib.import_module(f"planmesh.schemas.{info.name}")
        for name, found in inspect.getmembers(module, inspect.isclass):
            ours = issubclass(found, Struct) and found.__module__ == module.__name__ and not name.startswith("_")
            if ours and not found.__subclasses__():
                yield found


def test_every_stream_and_every_consumer_is_in_the_documents() -> None:
    documented = {channel.stream.name for channel in CHANNELS if channel.stream}
    consumed = {(one.stream, one.name) for channel in CHANNELS for one in contract.consumers_of(channel)}

    assert documented == {one.name for one in contract.all_streams()}
    assert consumed == {(one.stream, one.name) for one in contract.consumers()}


def test_every_right_of_a_user_leads_to_a_channel() -> None:
    lost = [
        (user.name, right)
        for user in contract.users()
        for right in (*user.publish, *user.subscribe)
        if not right.startswith(("$", "_INBOX.", "_R_.", "inspect."))
        if not any(contract.reaches(right, channel) for channel in CHANNELS)
    ]

    assert not lost


def test_every_parameter_is_explained() -> None:
    assert {name for channel in CHANNELS for name in channel.parameters} == set(contract.PARAMETERS)


# --- nothing is made up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_is_sent_by_whom_its_verb_names(verb: str) -> None:
    (channel,) = (one for one in CHANNELS if one.subject is subjects.command and one.fixed == {"verb": verb})
    users = {"operator": {"operator-{operator}"}, "person": {"gatekeeper"}, "service": {"submitter-{space}"}}

    senders = {one.user for one in contract.senders(channel)}

    assert senders == set().union(*(users.get(who, {who}) for who in VERBS[verb].publishers))


@pytest.mark.parametrize(
    ("key", "senders", "receivers"),
    [
        ("goal", {"submitter-{space}"}, {"planner-edge"}),
        ("plan_log", {"executor"}, {"executor", "gatekeeper", "auditor", "operator-{operator}", "submitter-{space}"}),
        ("agent_work", {"executor"}, {"agent-{agent}", "executor"}),
        ("secret_answer", {"operator-{operator}"}, {"executor"}),
        ("secret_review", {"gatekeeper"}, {"executor"}),
        ("secret_reply", {"submitter-{space}"}, {"executor"}),
        ("reveal", {"agent-{agent}"}, {"executor-agents"}),
        ("blob", {"executor"}, {"executor", "gatekeeper", "auditor", "operator-{operator}"}),
        ("put_blob", {"agent-{agent}"}, {"executor-agents"}),
        ("claim", {"agent-{agent}"}, set()),
    ],
)
def test_users_of_a_channel_are_those_that_the_server_lets(key: str, senders: set[str], receivers: set[str]) -> None:
    (channel,) = (one for one in CHANNELS if one.key == key)

    assert {one.user for one in contract.senders(channel)} == senders
    assert {one.user for one in contract.receivers(channel)} == receivers


# --- JSON Schema -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one_and_takes_the_stored_messages(name: str) -> None:
    schema = SCHEMAS[name]

    Draft202012Validator.check_schema(schema)

    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for sample, message in contract.golden().items():
        if sample.partition(".")[0] == name:
            validator.validate(message)


def test_a_schema_refuses_what_the_services_refuse() -> None:
    validator = Draft202012Validator(SCHEMAS["CastVote"])
    vote = contract.golden()["CastVote"]

    for wrong in (
        {**vote, "id": "a b"},
        {**vote, "id": "a\n"},
        {**vote, "mood": "fine"},
        {**vote, "decision": "maybe"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(wrong)


def test_fields_carry_their_docstrings() -> None:
    quorum = SCHEMAS["Plan"]["$defs"]["Gate"]["properties"]["quorum"]

    assert quorum["description"] == "Approvals that it takes. One rejection is enough."


# --- AsyncAPI ----------------------------------------------------------------------------------------------


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference_ in references(document):
        found: Any = document
        for part in reference_.removeprefix("#/").split("/"):
            assert part in found, f"{reference_} leads nowhere"
            found = found[part]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from references(one)


def test_every_channel_names_the_parameters_of_its_address(document: dict[str, Any]) -> None:
    for channel in document["channels"].values():
        address = channel["address"] or ""
        assert {f"{{{name}}}" for name in channel.get("parameters", {})} == {
            word for word in address.split(".") if word.startswith("{")
        }


def test_an_operation_is_about_messages_of_its_channel(document: dict[str, Any]) -> None:
    for name, operation in document["operations"].items():
        assert operation["action"] in ("send", "receive")
        for part in (operation, operation.get("reply", operation)):
            assert part["messages"], name
            for message in part["messages"]:
                assert message["$ref"].startswith(f"{part['channel']['$ref']}/messages/")


def test_every_example_is_what_its_schema_says(document: dict[str, Any]) -> None:
    Draft7Validator.check_schema(document["components"]["schemas"])
    for name, message in document["components"]["messages"].items():
        if message["contentType"] != "application/json" or not message["payload"]:
            continue
        assert message["examples"], name
        for example in message["examples"]:
            # The whole document is the root, so that references resolve.
            Draft7Validator({**document, **message["payload"]}).validate(example["payload"])


def test_facts_of_streams_and_consumers_stand_beside_their_channels(document: dict[str, Any]) -> None:
    channel = document["channels"]["agent_work"]

    assert channel["x-stream"]["account"] == "CORE"
    assert channel["x-stream"]["retention"] == "workqueue"
    (consumer,) = channel["x-consumers"]
    assert (consumer["durable_name"], consumer["ack_wait_s"], consumer["max_deliver"]) == ("agent-{agent}", 2.0, -1)
    assert document["channels"]["signals"]["x-stored"] is False
    assert document["channels"]["outcome"]["x-stream"]["max_age_s"] == 30 * 86_400


# --- the page and the command ------------------------------------------------------------------------------


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "messages.md").read_text("utf-8") == reference.messages_page(), (
        "docs/messages.md is out of date: `planmesh schema --docs > docs/messages.md`"
    )


def test_the_command_writes_a_file_for_each_message(tmp_path: Path) -> None:
    code = main(["schema", str(tmp_path / "new" / "folder")])

    assert code == COMPLETED
    found = {file.name: json.loads(file.read_bytes()) for file in (tmp_path / "new" / "folder").iterdir()}
    assert found.pop("asyncapi.json")["asyncapi"] == "3.0.0"
    assert set(found) == {f"{name}.schema.json" for name in SCHEMAS}


def test_the_command_prints_the_document_or_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == COMPLETED
    assert json.loads(capsys.readouterr().out)["info"]["version"] == planmesh.__version__

    assert main(["schema", "--docs"]) == COMPLETED
    assert capsys.readouterr().out == reference.messages_page()


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    assert main(["schema", str(tmp_path / "file")]) == FAILED
    assert "cannot write to" in capsys.readouterr().err
    assert main(["schema", "--docs", str(tmp_path)]) == USAGE
