"""What to learn (presets) and how (recipes), as settings that a config starts from.

Both are hypotheses until measured on your clips.
"""

from typing import Any

from mova.strengths import PARTS

EXPERTS = PARTS["video"]
OFF, FFN = {"train": False}, "attention_ffn"
PRESETS: dict[str, dict[str, Any]] = {
    "look": {
        "towers": {
            **{name: {"rank": 32, "targets": FFN} for name in EXPERTS},
            "audio_dit": OFF,
            "dual_tower_bridge": OFF,
        },
        "objective": {"audio_weight": 0.0},
    },
    "voice": {
        "towers": {
            "video_dit": OFF,
            "video_dit_2": {"rank": 16},
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16},
        }
    },
    "look_and_voice": {
        "towers": {
            **{name: {"rank": 32} for name in EXPERTS},
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16},
        }
    },
    "motion": {
        "towers": {"video_dit_2": OFF, "audio_dit": OFF, "dual_tower_bridge": {"rank": 16}},
        "objective": {"high_share": 1.0},
    },
    "sound_only": {
        "towers": {
            **dict.fromkeys(EXPERTS, OFF),
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16, "targets": "video_to_audio"},
        },
        "objective": {"video_weight": 0.0},
    },
}
# "released": the public trainer. "paper": arXiv 2602.08794, phases 2 and 3, at LoRA's learning rate.
# "balanced": the released one with the schedule's own share of experts, and some empty captions, without
# which text guidance pushes away from what was learnt.
RECIPES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "released": {"objective": {"text_dropout": 0.0, "high_share": 0.5}, "optimizer": {"warmup_steps": 500}},
    "paper": {
        "objective": {"audio_timestep": "independent", "audio_weight": 0.2, "text_dropout": 0.2},
        "optimizer": {"weight_decay": 0.001},
        "towers": {"dual_tower_bridge": {"learning_rate_scale": 2.0}},
        "data": {"loudness": -23.0},
    },
}
