"""A finding of the doctor: one line on one part of an installation, safe to be shown to others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mova.errors import printable

GOOD, SLOW, BROKEN = "good", "slow", "broken"


@dataclass(frozen=True)
class Finding:
    """One part of the installation: good, slow (it works, and could be better) or broken, and what to do."""

    part: str
    state: str
    text: str
    advice: str = ""


def line_of(finding: Finding) -> str:
    advice = f"\n{'':<27}-> {finding.advice}" if finding.advice else ""
    return f"{finding.state:<8}{finding.part:<19}{finding.text}{advice}\n"


def shareable(text: str, environ: Mapping[str, str]) -> str:
    """`text` on one line without values of secret variables, user names in addresses and absolute paths."""
    for name, value in environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", name, re.IGNORECASE) and len(value.strip()) >= 6:
            text = text.replace(value.strip(), "***")
    text = re.sub(r"//[^/\s@]*@", "//", " ".join(text.split()))
    for folder, sign in ((Path.cwd(), "."), (Path.home(), "~")):
        if folder != folder.parent:  # a container's user may live in /
            text = re.sub(rf"{re.escape(str(folder))}(?=[/\\\s:;,'\")]|$)", sign, text)
    return printable(
        re.sub(r"(?<![\w.~:/\\])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:;,'\"()]+[/\\])*(?=[^/\\\s])", ".../", text)
    )
