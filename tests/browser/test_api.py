"""The page as programs see it: named endpoints, many clients at once, and clients that mean harm."""

import json
import math
import os
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from mova.media import read_clip
from tests.browser.demo import serving

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
    cost = api.predict(preset="quick", api_name="/estimate")
    assert (cost["width"], cost["height"], cost["num_frames"], cost["steps"]) == (64, 32, 9, 15)
    assert cost["seconds"] > 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "a" * 1_000_000}, "has 1000000 characters"),
        ({"seed": -1}, "seed=-1"),
        ({"steps": 1e9}, "from 1 to 100"),
        ({"seconds": 1e9}, "from 0.2 to 20"),
        ({"shape": "../../x"}, "is not known"),
        ({"preset": "best"}, "there is no preset"),
        ({"model": "/etc"}, "there is no model '/etc' here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_met_is_a_sentence(api, given, sentence):
    assert sentence in refusal(api, **{"image": None} | SMALL | given, api_name="/generate")


def post(url, data, kind="application/json"):
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(server, values):
    """/generate by plain HTTP: the status and all that the stream says."""
    body = json.dumps({"data": values}).encode()
    status, text = post(f"{server.url}/gradio_api/call/generate", body)
    if status != 200:
        return status, text
    with urllib.request.urlopen(
        f"{server.url}/gradio_api/call/generate/{json.loads(text)['event_id']}", timeout=60
    ) as stream:
        return 200, stream.read().decode()


def test_no_file_of_the_machine_is_read_for_a_stranger(server, golden):
    for path in ("/etc/passwd", "../../etc/passwd", str(golden / "image.png"), str(server.outputs / ".key")):
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        status, text = call(server, [PROMPT, image, "quick", "wide", 0.4, 1, 3, 5, 1, None, ""])
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
    with serving(tmp_path_factory.mktemp("narrow"), MOVA_QUEUE="8", MOVA_MAX_UPLOAD_MB="1") as server:
        yield server


def test_a_large_upload_is_cut_off(narrow):
    boundary = "xx"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="../../a.png"\r\n\r\n'
    body = head.encode() + bytes(3_000_000) + f"\r\n--{boundary}--\r\n".encode()
    status, _ = post(f"{narrow.url}/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")
    assert status == 413


def test_twenty_clients_get_a_clip_or_hear_that_it_is_busy(narrow):
    clients = [Client(narrow.url, verbose=False) for _ in range(3)]

    def one(number):
        client = clients[number % 3]
        try:
            clip, settings = client.predict(**SMALL | {"image": None, "seed": number}, api_name="/generate")
            return settings["seed"], read_clip(Path(clip)).frames.shape
        except AppError as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(one, range(20)))
    made = [result for result in results if isinstance(result, tuple)]
    busy = [result for result in results if isinstance(result, str)]
    assert len(made) >= 9
    assert all(result == (number, (9, 32, 64, 3)) for number, result in enumerate(results) if result in made)
    assert all("the machine is busy" in text and "try again" in text for text in busy)
    assert len(made) + len(busy) == 20


def test_a_killed_worker_costs_one_clip_and_the_next_is_made(narrow):
    client = Client(narrow.url, verbose=False)
    job = client.submit(**SMALL | {"image": None, "steps": 100, "seconds": 1.4}, api_name="/generate")
    page = psutil.Process(narrow.process.pid)
    while not (job.status().progress_data or job.done()):
        time.sleep(0.05)
    for child in page.children():
        if "mova.ui.worker" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(AppError, match="was killed, most likely because the machine ran out of memory"):
        job.result(timeout=60)
    clip, _ = client.predict(**SMALL | {"image": None}, api_name="/generate")
    assert Path(clip).stat().st_size > 1000
