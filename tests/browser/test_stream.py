"""The page's stream of answers where the server is slow to close it."""

from tests.browser.page import serving, visiting

# gradio's server, which lets an event in while it closes the stream, with a moment between the two.
SLOW = """
import asyncio, runpy
from gradio import routes

class SlowToClose(routes.StreamingResponse):
    def __init__(self, content, **options):
        super().__init__(self.delay(content), **options)

    async def delay(self, content):
        async for part in content:
            if "close_stream" in part:
                await asyncio.sleep(0.3)
            yield part

routes.StreamingResponse = SlowToClose
runpy.run_path("app.py", run_name="__main__")
"""


def test_no_answer_is_lost_while_the_stream_is_closed(chromium, tmp_path):
    with serving(tmp_path, "-c", SLOW) as server, visiting(chromium, server) as demo:
        for number in range(2):  # each a chain of four events
            demo.make(f"A ball bounces {number} times.", preset=None)
            demo.choose_preset("Draft")
