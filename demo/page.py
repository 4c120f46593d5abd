"""The page as a whole: its head, its tabs, and what they share."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color

from demo import html
from demo.api import add_endpoints
from demo.enhance_tab import build_enhance, wire_enhance
from demo.examples import read_examples
from demo.generate_form import GenerateTab
from demo.generate_tab import build_generate, wire_generate
from demo.service import DemoService

TITLE = "MOVA: video with sound"
MAX_QUEUE = 64  # requests of all kinds that may wait; clips have their own line

# Given what the tabs share, the generate tab, all tabs, and its own.
BuildTrainTab = Callable[[DemoService, gr.BrowserState, GenerateTab, gr.Tabs, gr.Tab], None]


def build_page(studio: DemoService, build_train: BuildTrainTab | None = None) -> gr.Blocks:
    """The page. `build_train` fills the Train tab, which there is only with it."""
    examples = read_examples(studio.settings.examples)
    hours = min(studio.settings.keep_hours, 24)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, int(hours * 3600))
    ) as demo:
        visitor = gr.BrowserState(None, storage_key="mova-visitor", secret="mova-visitor")
        with gr.Row(elem_id="mova-head", equal_height=True):
            with gr.Column(scale=5, min_width=240):
                gr.HTML(
                    "<h1>Video with sound</h1>"
                    "<p>From a picture and a sentence, in one go: what you see and what you hear.</p>"
                )
            if studio.settings.space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm", scale=1, min_width=160)
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate_tab = build_generate(studio, examples)
            with gr.Tab("Write a prompt", id="enhance"):
                enhance_tab = build_enhance(studio)
            if build_train is not None:
                with gr.Tab("Train", id="train", elem_id="train-tab") as train_tab:
                    build_train(studio, visitor, generate_tab, tabs, train_tab)
        machine = gr.HTML(html.note(studio.machine), elem_id="machine")
        wire_generate(studio, generate_tab, visitor, machine, examples, demo)
        wire_enhance(studio, enhance_tab, visitor, generate_tab, tabs)
        add_endpoints(studio)
    demo.queue(max_size=MAX_QUEUE, default_concurrency_limit=16)
    return demo


HERE = Path(__file__).parent
ASSETS = HERE.parent / "assets"
DESCRIPTION = "Make a short video with sound from a picture and a sentence."
INK = Color(
    "#f6f7f8",
    "#eceef0",
    "#dcdfe3",
    "#c1c7ce",
    "#96a0ab",
    "#6b7683",
    "#515b67",
    "#3d454f",
    "#272d35",
    "#181c22",
    "#101317",
    "ink",
)
SEA = Color(
    "#eefafa",
    "#d3f1f1",
    "#a9e2e3",
    "#74cccf",
    "#3fb0b5",
    "#15838a",
    "#0f6d74",
    "#12595f",
    "#14474c",
    "#123b40",
    "#08262a",
    "sea",
)


def make_theme() -> gr.themes.Base:
    """The theme; its fonts are those of the visitor's system."""
    theme = gr.themes.Base(
        primary_hue=SEA,
        secondary_hue=SEA,
        neutral_hue=INK,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        block_title_text_weight="600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_width="1px",
        input_border_color_focus="*primary_500",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
    )


def launch_look(card_url: str = "") -> dict[str, object]:
    """What `launch` must be given for the page to look like this; whoever launches takes it from here."""
    head = f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>"
    head += f'<meta name="description" content="{DESCRIPTION}">'
    if card_url:
        head += f'<meta property="og:image" content="{card_url}">'
    return {
        "theme": make_theme(),
        "css_paths": HERE / "page.css",
        "head": head,
        "favicon_path": str(ASSETS / "favicon.png") if (ASSETS / "favicon.png").is_file() else None,
    }
