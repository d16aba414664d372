"""A conversation at a terminal."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.cli.api_server import ApiServer, answers, chat_chunks, events, refusal
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.fixtures.wait import HANGS_AFTER_S


def test_a_conversation_has_several_turns(api: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    (tmp_path / "b.wav").write_bytes(b"sound")
    api.will(answers("A cat."), answers("It purrs."), answers("Hello."))
    with Terminal("chat", "--system", "Be brief.", "--image", str(tmp_path / "a.png"), "--url", api.url) as terminal:
        terminal.until("/help lists the commands.")
        terminal.until("[1 attached] > ")
        terminal.type("What is it?\n")
        terminal.until("A cat.")
        terminal.until("> ")
        terminal.type(f"/audio {tmp_path}/b.wav\n")
        terminal.until("[1 attached] > ")
        terminal.type("\n")
        terminal.until("It purrs.")
        terminal.until("> ")
        terminal.type("/new\n")
        terminal.until("> ")
        terminal.type("hi\n")
        terminal.until("Hello.")
        terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    first, second, third = (asked["messages"] for asked in api.asked())
    system = {"role": "system", "content": "Be brief."}
    image, text = first[1]["content"]
    assert image["image_url"]["url"].endswith(base64.b64encode(b"image").decode())
    assert text == {"type": "text", "text": "What is it?"}
    assert second[:3] == [system, first[1], {"role": "assistant", "content": "A cat."}]
    assert [part["type"] for part in second[3]["content"]] == ["input_audio"]
    assert third == [system, {"role": "user", "content": "hi"}]


def test_ctrl_c_stops_an_answer_and_forgets_its_turn(api: ApiServer) -> None:
    api.will(events(*chat_chunks("so far", finish_reason=None), done=False, hangs=True), answers("fine"))
    with Terminal("chat", "--url", api.url) as terminal:
        terminal.until("> ")
        terminal.type("first\n")
        terminal.until("so far")
        terminal.type(CTRL_C)
        terminal.until("Stopped. This turn is forgotten.")
        assert api.left.wait(HANGS_AFTER_S)
        terminal.until("> ")
        terminal.type("second\n")
        terminal.until("fine")
        terminal.until("> ")
        assert terminal.interrupted() == 0
    assert api.requests[1].json["messages"] == [{"role": "user", "content": "second"}]


def test_a_failed_turn_can_be_asked_again(api: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"sound")
    api.will(refusal(400, "Too long.", "context_length_exceeded"), answers("fine"))
    with Terminal("chat", "--audio", str(tmp_path / "b.wav"), "--url", api.url) as terminal:
        terminal.until("[1 attached] > ")
        terminal.type("first\n")
        terminal.until("Too long. (code context_length_exceeded, request req-1)")
        terminal.until("[1 attached] > ")
        terminal.type("/imag a.png\n")
        terminal.until("/imag is not a command, or wants a file.")
        terminal.until("[1 attached] > ")
        terminal.type("/image no/such.png\n")
        terminal.until("no/such.png cannot be read")
        terminal.until("[1 attached] > ")
        terminal.type("/etc/hosts is what?\n")
        terminal.until("fine")
        terminal.until("> ")
        terminal.type(f"/image {tmp_path}/b.wav\n")
        terminal.until("[1 attached] > ")
        terminal.type("/drop\n")
        assert "attached" not in terminal.until("> ").removeprefix("/drop")
        terminal.type("/quit\n")
        assert terminal.ended() == 0
    audio, text = api.requests[1].json["messages"][0]["content"]
    assert audio["input_audio"]["data"] == base64.b64encode(b"sound").decode()
    assert text["text"] == "/etc/hosts is what?"


def test_a_models_control_characters_reach_no_terminal(api: ApiServer) -> None:
    api.will(answers("a\x1b[2Jb\x07c\u009b1md"))
    with Terminal("chat", "hello", "--url", api.url) as terminal:
        terminal.until("a·[2Jb·c·1md")
        assert terminal.ended() == 0


def test_the_spoken_answers_of_a_conversation_are_numbered(api: ApiServer, tmp_path: Path) -> None:
    api.will(answers("one"), answers("two"))
    with Terminal("chat", "-o", str(tmp_path / "a.mp3"), "--url", api.url) as terminal:
        for text in ("one", "two"):
            terminal.until("> ")
            terminal.type("hi\n")
            terminal.until(text)
            terminal.until("The speech is in ")
        terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.mp3", "a.mp3"]


def test_a_chain_of_thought_is_shown_to_a_person(api: ApiServer) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}]}
    api.will(events(thought, *chat_chunks("Yes.", finish_reason="length")))
    with Terminal("chat", "hello", "--url", api.url) as terminal:
        terminal.until("Hm.\n\nYes.\n")
        terminal.until("reached a limit")
        assert terminal.ended() == 0
