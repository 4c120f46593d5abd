"""Who is signed in on a Space, for the handlers that ask the Hub in their name."""

import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_trainer.hub_jobs import Login
from lora_trainer.ui.workshop import Workshop


def signed(shop: Workshop, handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler(login, ...)` as gradio calls it; on one's own machine, without sign-in, login is None."""

    def here(*values: object) -> Any:  # noqa: ANN401 - what the handler gives
        return handler(None, *values)

    def on_a_space(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None, *values: object) -> Any:  # noqa: ANN401
        return handler(login_of(token, profile), *values)

    # Elsewhere than on a Space gradio would ask for a login of the machine.
    return on_a_space if shop.studio.settings.space_id else here


def login_of(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None) -> Login | None:
    if token is None or profile is None:
        return None
    return Login(profile.username, token.token, tuple(re.split(r"[\s,]+", token.scope)), token.expires_at)
