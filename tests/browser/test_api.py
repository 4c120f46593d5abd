"""The page as programs see it: named endpoints, many clients at once, and clients that mean harm."""

import json
import math
import os
import re
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from mova.media.clips import read_clip, write_wav
from tests.browser.page import serving
from tests.demo.test_form import bomb, polyglot

SNAPSHOT = Path(__file__).with_name("api.json")
PROMPT = 'A man says, "Yes." The audio shows a voice.'
SMALL = {"prompt": PROMPT, "steps": 3, "seconds": 0.4}


@pytest.fixture(scope="module")
def api(server):
    return Client(server.url, verbose=False)


def refusal(client, **given):
    with pytest.raises((AppError, ValueError)) as caught:
        client.predict(**given)
    return str(caught.value)


def test_the_public_endpoints_are_these(api):
    """A change here breaks programs; after a change that is meant, write the file anew from `found`."""
    described = api.view_api(return_format="dict", print_info=False)["named_endpoints"]
    found = {
        name: {
            side: {
                each["parameter_name" if side == "parameters" else "label"]: each["python_type"]["type"]
                for each in endpoint[side]
            }
            for side in ("parameters", "returns")
        }
        for name, endpoint in described.items()
    }
    assert found == json.loads(SNAPSHOT.read_text()), json.dumps(found, indent=2)


def test_a_program_makes_a_clip_and_makes_it_again(api, golden):
    given = SMALL | {"image": handle_file(str(golden / "image.png")), "seed": 5}
    clip, settings = api.predict(**given, api_name="/generate")
    again, _ = api.predict(**given, api_name="/generate")
    made = read_clip(Path(clip))
    assert made.frames.shape == (9, 32, 64, 3)
    assert np.array_equal(made.frames, read_clip(Path(again)).frames)
    assert (settings["seed"], settings["image"]) == (5, "first.png")
    assert "/" not in json.dumps([settings["image"], settings["adapters"]])


def test_a_program_writes_a_prompt_and_asks_for_the_cost(api):
    prompt, about = api.predict(idea='a dog barks and says "wuff"', seconds=8, api_name="/enhance")
    assert '"wuff"' in prompt
    assert about["route"] == "template"
    cost = api.predict(preset="draft", api_name="/estimate")
    assert (cost["width"], cost["height"], cost["num_frames"], cost["steps"]) == (64, 32, 9, 12)
    assert cost["seconds"] > 0


def test_a_program_changes_a_clip_in_each_of_the_four_ways(api, tmp_path):
    clip, _ = api.predict(**SMALL | {"seed": 5}, api_name="/generate")
    first = read_clip(Path(clip))
    given = {"clip": handle_file(clip), "preset": "quick", "seed": 6}
    part = {"start": 0.1, "end": 0.25}
    made = {}
    for name, more in (("extend", {}), ("redo_sound", {}), ("redo_picture", {}), ("retake", part)):
        path, settings = api.predict(**given | more, api_name=f"/{name}")
        made[name] = read_clip(Path(path))
        assert (settings["prompt"], settings["seed"], settings["video"]) == (PROMPT, 6, "given.mp4")
    assert len(made["extend"].frames) == 9 + 12
    assert np.array_equal(made["redo_sound"].frames, first.frames)
    assert np.abs(made["redo_picture"].waveform - first.waveform).max() < 0.02  # of AAC
    assert made["retake"].frames.shape == first.frames.shape
    write_wav(tmp_path / "voice.wav", first.waveform, first.sample_rate)
    sound = given | {"clip": handle_file(str(tmp_path / "voice.wav"))}
    path, settings = api.predict(**sound, api_name="/redo_picture")
    assert settings["audio"] == "given.wav"
    assert "a sound lacks what is to stay or to be changed" in refusal(api, **sound, api_name="/extend")
    assert "ends before it starts" in refusal(api, **given, start=0.3, end=0.1, api_name="/retake")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"preset": "best"}, "there is no preset"),
        ({"model": "/etc"}, "there is no model '/etc' here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_met_is_a_sentence(api, given, sentence):
    assert sentence in refusal(api, **{"image": None} | SMALL | given, api_name="/generate")


def test_a_hostile_picture_is_a_sentence_for_programs_too(api, tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    image = handle_file(str(tmp_path / "bomb.png"))
    assert "too many pixels" in refusal(api, **SMALL | {"image": image}, api_name="/generate")


def test_of_a_polyglot_a_program_gets_back_only_the_picture(api, server, tmp_path):
    (tmp_path / "both.gif").write_bytes(polyglot())
    api.predict(**SMALL | {"image": handle_file(str(tmp_path / "both.gif"))}, api_name="/generate")
    kept = max(server.outputs.rglob("first.png"), key=lambda path: path.stat().st_mtime)
    assert kept.read_bytes().startswith(b"\x89PNG")
    assert not zipfile.is_zipfile(kept)


def test_an_agent_makes_a_clip_by_the_tools_of_the_mcp_server(server):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{server.url}/gradio_api/mcp/") as (incoming, outgoing, _),
            mcp.ClientSession(incoming, outgoing) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            answers = [
                await session.call_tool("enhance", {"idea": 'a dog says "wuff"'}),
                await session.call_tool("generate", SMALL | {"seed": 6}),
                await session.call_tool("generate", {"prompt": " "}),
            ]
            return tools, [(answer.isError, answer.content[0].text) for answer in answers]

    with ThreadPoolExecutor(1) as thread:  # this one may have the event loop of a browser
        tools, (enhanced, made, refused) = thread.submit(anyio.run, talk).result()
    changes = {"extend", "redo_sound", "redo_picture", "retake"}
    assert set(tools) == {"generate", "enhance", "estimate"} | changes
    assert tools["extend"].inputSchema["required"] == ["clip"]
    assert tools["retake"].inputSchema["required"] == ["clip", "start", "end"]
    assert tools["generate"].inputSchema["required"] == ["prompt"]
    properties = [each for tool in tools.values() for each in tool.inputSchema["properties"].values()]
    assert all("description" in each for each in properties)
    assert not enhanced[0]
    assert "wuff" in enhanced[1]
    assert not made[0]
    assert "'seed': 6" in made[1]
    assert refused == (True, "the prompt is empty; say what is seen and what is heard")
    link = re.search(r"http://[^']+\.mp4", made[1])[0]
    with urllib.request.urlopen(link, timeout=10) as clip:
        assert clip.read(12)[4:8] == b"ftyp"


def post(url, data, kind="application/json"):
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(server, values, name="generate"):
    """An endpoint by plain HTTP: the status and all that the stream says."""
    body = json.dumps({"data": values}).encode()
    address = f"{server.url}/gradio_api/call/{name}"
    status, text = post(address, body)
    if status != 200:
        return status, text
    with urllib.request.urlopen(f"{address}/{json.loads(text)['event_id']}", timeout=60) as stream:
        return 200, stream.read().decode()


def test_no_file_of_the_machine_is_read_for_a_stranger(server, golden):
    for path in ("/etc/passwd", "../../etc/passwd", str(golden / "image.png"), str(server.outputs / ".key")):
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        status, text = call(server, [PROMPT, image, "quick", "wide", 0.4, 1, 3, 5, 1, None, ""])
        assert "event: error" in text or status >= 400, path
        status, text = call(server, [image, PROMPT, "quick", 1], "extend")
        assert "event: error" in text or status >= 400, path
        for prefix in ("/gradio_api/file=", "/file="):
            assert post(f"{server.url}{prefix}{path}", None)[0] in (403, 404, 405)
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{server.url}{prefix}{path}", timeout=10)


def test_not_a_number_is_no_number(server):
    status, text = call(server, [PROMPT, None, "quick", "wide", math.nan, 1, 3, 5, 1, None, ""])
    assert status >= 400 or "event: error" in text


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A page with a short line and small uploads."""
    with serving(tmp_path_factory.mktemp("narrow"), MOVA_QUEUE="4", MOVA_MAX_UPLOAD_MB="1") as server:
        yield server


def test_half_a_gigabyte_is_cut_off_and_not_kept(narrow):
    """The server answers and hangs up before it has read it all."""
    boundary, megabyte = "xx", bytes(2**20)
    host, port = narrow.url.removeprefix("http://").split(":")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'.encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    before = psutil.disk_usage(tempfile.gettempdir()).used
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        length = len(head) + 500 * len(megabyte) + len(tail)
        lines = ("POST /gradio_api/upload HTTP/1.1", f"Host: {host}", f"Content-Length: {length}")
        kind = f"Content-Type: multipart/form-data; boundary={boundary}"
        connection.sendall("\r\n".join([*lines, kind, "", ""]).encode() + head)
        sent = 0
        try:
            while sent < 500:
                connection.sendall(megabyte)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b"" if sent < 500 else connection.recv(100)
    assert sent < 500 or b" 413 " in answer
    assert psutil.disk_usage(tempfile.gettempdir()).used - before < 250 * 2**20


def test_ten_clients_get_a_clip_or_hear_that_it_is_busy(narrow):
    clients = [Client(narrow.url, verbose=False) for _ in range(3)]

    def one(number):
        client = clients[number % 3]
        try:
            clip, settings = client.predict(**SMALL | {"image": None, "seed": number}, api_name="/generate")
            return settings["seed"], read_clip(Path(clip)).frames.shape
        except AppError as error:
            return str(error)

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(one, range(10)))
    made = [result for result in results if isinstance(result, tuple)]
    busy = [result for result in results if isinstance(result, str)]
    assert len(made) >= 5
    assert all(result == (number, (9, 32, 64, 3)) for number, result in enumerate(results) if result in made)
    assert all("the machine is busy" in text and "try again" in text for text in busy)
    assert len(made) + len(busy) == 10


def test_eight_clips_leave_the_memory_of_page_and_model_as_it_was(narrow):
    """`python -m benchmarks.first_clip --clips 50` shows fifty."""
    client = Client(narrow.url, verbose=False)
    page = psutil.Process(narrow.process.pid)
    held = []
    for number in range(8):
        client.predict(**SMALL | {"seed": number}, api_name="/generate")
        held.append(sum(each.memory_info().rss for each in (page, *page.children(recursive=True))) / 2**20)
    growth = max(held[-3:]) - max(held[1:4])
    assert growth < 60, held  # MiB; a clip of this size kept would be 0.1, a model 300


def test_a_killed_worker_costs_one_clip_and_the_next_is_made(narrow):
    client = Client(narrow.url, verbose=False)
    job = client.submit(**SMALL | {"image": None, "steps": 100, "seconds": 1.4}, api_name="/generate")
    page = psutil.Process(narrow.process.pid)
    while not (job.status().progress_data or job.done()):
        time.sleep(0.05)
    for child in page.children():
        if "demo.worker" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(AppError, match="was killed, most likely because the machine ran out of memory"):
        job.result(timeout=60)
    clip, _ = client.predict(**SMALL | {"image": None}, api_name="/generate")
    assert Path(clip).stat().st_size > 1000
