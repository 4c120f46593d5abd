"""The page as a whole: head, tabs and theme."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color

from demo import html
from demo.api import PublicApi
from demo.enhance_tab import EnhanceTab
from demo.examples import read_examples
from demo.generate_tab import GenerateTab
from demo.service import DemoService
from demo.train.tab import build_train

TITLE = "MOVA: video with sound"
MAX_QUEUE = 64  # requests of all kinds that may wait; clips have a queue of their own


def build_page(service: DemoService) -> gr.Blocks:
    """Lay out the page and connect its tabs."""
    hours = min(service.settings.keep_hours, 24)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, int(hours * 3600))
    ) as demo:
        visitor = gr.BrowserState(None, storage_key="mova-visitor", secret="mova-visitor")
        gr.HTML("<b>MOVA</b> <span>video with sound</span>", elem_id="mova-head")
        with gr.Tabs(selected="generate", elem_id="mova-tabs") as tabs:
            with gr.Tab("Generate", id="generate", elem_id="generate-tab"):
                generate = GenerateTab(service, visitor, read_examples(service.settings.examples))
            with gr.Tab("Prompt", id="enhance", elem_id="prompt-tab"):
                enhance = EnhanceTab(service, visitor)
            if service.settings.train_tab:
                with gr.Tab("Train", id="train", elem_id="train-tab") as train_tab:
                    build_train(service, visitor, generate, tabs, train_tab)
        machine = gr.HTML(html.note(service.machine), elem_id="machine")
        if not service.settings.is_public:
            gr.HTML(html.note("Something is not right? python -m mova doctor examines this installation."))
        if service.settings.space_id:
            gr.DuplicateButton("Duplicate this Space", size="sm", elem_id="duplicate")
        generate.connect(demo, machine)
        enhance.connect(generate.form, tabs)
        PublicApi(service).publish()
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
    """The theme, with the fonts of the visitor's system."""
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
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
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
    """The options of `launch` that make the page look as it does."""
    scripts = ((HERE / name).read_text(encoding="utf-8") for name in ("stream.js", "page.js"))
    head = "".join(f"<script>{script}</script>" for script in scripts)
    head += f'<meta name="description" content="{DESCRIPTION}">'
    if card_url:
        head += f'<meta property="og:image" content="{card_url}">'
    return {
        "theme": make_theme(),
        "css_paths": [HERE / "page.css", HERE / "tabs.css"],
        "head": head,
        "favicon_path": str(ASSETS / "favicon.png") if (ASSETS / "favicon.png").is_file() else None,
    }
