"""What the doctor says of a clip. No torch: the page shows it."""

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """`fixable`: `lora_trainer.fixes` can mend it in a copy of the data set."""

    clip: str
    check: str
    severity: str
    figure: str
    fix: str
    fixable: bool = False
