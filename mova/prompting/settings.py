"""Which server to ask, with which key. A key goes only to the address it was given for.

Environment: MOVA_LLM_BASE_URL, MOVA_LLM_MODEL, MOVA_LLM_API_KEY; else OPENAI_BASE_URL, OPENAI_MODEL,
OPENAI_API_KEY. The two families are never mixed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mova.prompting.addresses import PublicAddress, Resolve, check_public, check_url, resolve_host, shown_url
from mova.types import UserError

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. An empty `model` means the first that the server lists.

    `pinned` is set for a stranger's server and then is the only address that is called.
    """

    base_url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    sees: bool = True
    timeout: float = 90.0
    pinned: PublicAddress | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        return shown_url(self.base_url)

    def __repr__(self) -> str:
        return f"Endpoint({self.shown}, model={self.model!r})"


def endpoint_from_environment(environment: Mapping[str, str], purpose: str = "LLM") -> Endpoint | None:
    """The configured server for "LLM" or "IMAGE", or None. Raises UserError if its address is none."""
    base_url = environment.get(f"MOVA_{purpose}_BASE_URL", "").strip()
    if base_url:
        model = environment.get(f"MOVA_{purpose}_MODEL", "").strip()
        return Endpoint(check_url(base_url), model, environment.get(f"MOVA_{purpose}_API_KEY", "").strip())
    base_url = environment.get("OPENAI_BASE_URL", "").strip()
    key = environment.get("OPENAI_API_KEY", "").strip()
    model = (environment.get(f"MOVA_{purpose}_MODEL") or environment.get("OPENAI_MODEL", "")).strip()
    if base_url or (key and model):  # a key alone, set for other programs, sends nothing to anyone
        return Endpoint(check_url(base_url or OPENAI_URL), model, key)
    return None


def visitor_endpoint(
    base_url: str,
    model: str,
    api_key: str,
    configured: Endpoint | None,
    is_public_page: bool,
    resolve: Resolve = resolve_host,
) -> Endpoint:
    """The server a person asks for in the page or on the command line.

    An empty `base_url`, or the configured one, is the configured server with its own key, unless another
    key is given. Any other address gets the given key and never the configured one; on a public page it
    must come with a key and be public.

    Raises:
        UserError: no server is configured or given, or the given one may not be called.
    """
    base_url, api_key = base_url.strip().rstrip("/"), api_key.strip()
    if configured and base_url in ("", configured.base_url):
        own_key = api_key or configured.api_key
        chosen = model.strip() if not is_public_page or api_key else ""  # the owner pays: the owner's model
        return Endpoint(configured.base_url, chosen or configured.model, own_key, configured.sees)
    if not base_url:
        raise UserError("no server is configured; give an address such as http://localhost:8000/v1")
    if not is_public_page:
        return Endpoint(check_url(base_url), model.strip(), api_key)
    if not api_key:
        raise UserError(f"{shown_url(base_url)} needs a key of your own; this page's key is not sent there")
    return Endpoint(check_url(base_url), model.strip(), api_key, pinned=check_public(base_url, resolve))
