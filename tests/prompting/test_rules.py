"""Each rule by texts that break it, what its repair makes of them, and what of an idea a prompt must name."""

from pathlib import Path

import pytest

from mova.prompting.plan import NO_SUBTITLES, PromptPlan
from mova.prompting.prompt_files import load_words
from mova.prompting.rules import RULES, PromptRequirements, add_missing, check, repair
from mova.prompting.template import write_template
from mova.text import TokenMeter, count_words, language_of, speech_seconds

IDEA = 'A fisherman on a boat says "Here it comes." as rain starts'
FIRST = "A fisherman in a yellow coat leans on the rail of a small boat in grey light."
THEN = "Drops dot his sleeves. He lifts his face to the sky and turns to the wheelhouse."
SAYS = 'The fisherman says, "Here it comes."'
AUDIO = "The audio shows small waves slapping the hull and the first taps of rain; his voice is low."
TOKENIZER = Path(__file__).parents[1] / "golden" / "checkpoint" / "tokenizer"


def text(first=FIRST, then=THEN, says=SAYS, audio=f"{AUDIO} {NO_SUBTITLES}", before="", after="") -> str:
    return before + "\n\n".join(part for part in (first, then, says, audio) if part) + after


GOOD = text()


def rules(prompt: str, brief: PromptRequirements) -> set[str]:
    return {violation.rule for violation in check(prompt, brief)}


def test_a_good_prompt_breaks_no_rule():
    assert check(GOOD, PromptRequirements(IDEA)) == []


REPAIRED = [  # rule, broken text, what must be gone, what must be there
    ("plain_text", text(first=f"<p>{FIRST}</p>"), "<p>", FIRST),
    ("plain_text", text(then=THEN + " <Q7>"), "<Q7>", THEN),
    ("plain_text", text(then=THEN + "\x07\u202e"), "\x07", THEN),
    ("marks", text(before="```text\n", after="\n```"), "```", FIRST),
    ("marks", text(before="## Prompt for the scene\n\n"), "##", FIRST),
    ("marks", text(first=f"1. {FIRST}", then=f"2. {THEN}"), "1.", THEN),
    ("marks", text(first=f"**First frame:** {FIRST}", then=f"**Progression:** {THEN}"), "Progression", THEN),
    ("marks", text(first=f"- {FIRST}", then=f"* {THEN}"), "- A", THEN),
    ("marks", text(then=THEN.replace("sleeves", "*sleeves*")), "*", THEN),
    ("quotes", text(says=""), "A voice", 'says "Here it comes."'),
    ("invented_dialogue", text(says=f'{SAYS}\n\nThe captain shouts, "All hands!"'), "All hands", SAYS),
    (
        "invented_dialogue",
        text(then=THEN + ' He whispers, "Oh no. Not again." He nods.'),
        "Oh no",
        "He nods.",
    ),
    ("invented_dialogue", text(first=FIRST + " The hull is named “Maria”."), "“", "named Maria."),
    ("invented_dialogue", text(then=THEN + ' "'), '. "', THEN),
    ("camera", text(then=THEN + " The camera slowly pans to the sea."), "camera", THEN),
    ("camera", text(then=THEN[:-1] + ", as the camera pushes in on his face."), "camera", "wheelhouse."),
    ("stillness", text(first=FIRST.replace("a small", "a motionless small")), "motionless", "of a small"),
    ("stillness", text(first=FIRST.replace("A fish", "In a static shot, a fish")), "static", "In a shot"),
    ("audio_last", text(says=f"{AUDIO}\n\n{SAYS}", audio=NO_SUBTITLES), "", SAYS),
    ("audio_last", text(audio=NO_SUBTITLES), "", "The audio shows"),
    ("subtitles", text(audio=AUDIO), "", NO_SUBTITLES),
    ("length", text(then=" ".join(["Drops dot his sleeves."] * 80)), "", SAYS),
]


@pytest.mark.parametrize(("rule", "broken", "gone", "kept"), REPAIRED)
def test_a_rule_sees_the_fault_and_code_puts_it_right(rule, broken, gone, kept):
    brief = PromptRequirements(IDEA)
    assert rule in rules(broken, brief)
    mended = repair(broken, brief)
    assert mended.is_good, mended
    assert rule in {repair.rule for repair in mended.repairs}
    assert not gone or gone not in mended.text
    assert kept in mended.text
    assert '"Here it comes."' in mended.text
    assert PromptPlan.parse(mended.text).audio
    assert mended.text.endswith(NO_SUBTITLES)


SEEN = [  # rule, broken text, severity; only a person or another answer puts these right
    ("empty", "…", "error"),
    ("language", text(first="一位渔夫倚着栏杆。", then="雨滴落在袖子上。他抬头看天空。", says=SAYS), "error"),
    (
        "language",
        text(then="El hombre mira el cielo y se vuelve hacia la cabina con una sonrisa en los labios."),
        "error",
    ),
    ("structure", f"{AUDIO} {NO_SUBTITLES}", "error"),
    ("structure", text(then="", says=SAYS), "error"),
    (
        "unrelated",
        text(first="Two astronauts wave.", then="They dance.", says="", audio="The audio shows air."),
        "error",
    ),
    ("stillness", text(then=THEN + " The rain is still falling."), "warning"),
    ("sounds", text(audio=f"{AUDIO} Soft guitar music plays. {NO_SUBTITLES}"), "warning"),
    ("sounds", text(audio=f"{AUDIO} A narrator sums it up. {NO_SUBTITLES}"), "warning"),
]


@pytest.mark.parametrize(("rule", "broken", "severity"), SEEN)
def test_a_rule_sees_what_code_cannot_put_right(rule, broken, severity):
    found = [violation for violation in check(broken, PromptRequirements(IDEA)) if violation.rule == rule]
    assert [violation.severity for violation in found[:1]] == [severity]


def test_quotes_out_of_order_are_seen_and_not_shuffled():
    brief = PromptRequirements('He says "one" and she says "two"')
    swapped = text(says='She says, "two"\nHe says, "one"')
    assert "quotes" in rules(swapped, brief)
    assert not repair(swapped, brief).is_good


def test_missing_lines_are_put_where_they_belong():
    brief = PromptRequirements('He says "one", she says "two" and he says "three" near water')
    mended = repair(text(first="Two people stand near water.", says='She says, "two"'), brief)
    assert [line.text for line in PromptPlan.parse(mended.text).dialogue] == ["one", "two", "three"]


def test_a_changed_word_is_a_missing_quote():
    changed = text(says='The fisherman says, "Here it goes."')
    assert {"quotes", "invented_dialogue"} <= rules(changed, PromptRequirements(IDEA))
    mended = repair(changed, PromptRequirements(IDEA))
    assert mended.is_good
    assert "goes" not in mended.text


def test_words_that_the_idea_has_without_marks_are_not_invented():
    brief = PromptRequirements("a fisherman on a boat says good morning as rain starts")
    assert "invented_dialogue" not in rules(text(says='The fisherman says, "Good morning."'), brief)
    assert "invented_dialogue" in rules(text(says='The fisherman says, "Good night."'), brief)


def test_text_that_is_read_in_the_picture_may_be_quoted():
    shown = text(first=FIRST + ' A board reads "NO SWIMMING".')
    assert "invented_dialogue" in rules(shown, PromptRequirements(IDEA))
    assert rules(shown, PromptRequirements(IDEA, has_image=True)) == set()


@pytest.mark.parametrize(
    ("idea", "prompt"),
    [
        (
            "a static shot of a motionless lake in rain",
            text(first="A static shot shows a motionless lake.", says=""),
        ),
        (
            "rain, the camera pans over a lake",
            text(then="Rain falls. The camera pans over the lake.", says=""),
        ),
        (
            "a lake in rain with soft guitar music",
            text(audio=f"{AUDIO} Guitar music. {NO_SUBTITLES}", says=""),
        ),
        ("a lake in rain, no music", text(audio=f"{AUDIO} There is no music. {NO_SUBTITLES}", says="")),
    ],
)
def test_what_was_asked_for_is_no_fault(idea, prompt):
    assert not rules(prompt, PromptRequirements(idea)) & {"stillness", "camera", "sounds"}


def test_innocent_words_are_no_camera_moves():
    prompt = text(then="He tilts his head, follows a gull and moves along the train tracks.")
    assert "camera" not in rules(prompt, PromptRequirements(IDEA))


def test_every_span_is_in_the_text():
    for _, broken, *_ in REPAIRED + SEEN:
        for violation in check(broken, PromptRequirements(IDEA)):
            start, end = violation.span or (0, 0)
            assert 0 <= start <= end <= len(broken)


def test_warnings_offer_a_repair_but_are_not_applied():
    music = text(audio=f"{AUDIO} Soft guitar music plays. {NO_SUBTITLES}")
    mended = repair(music, PromptRequirements(IDEA))
    assert mended.text == music
    assert mended.violations[0].fix == GOOD


def test_tokens_are_counted_as_the_encoder_does_and_the_cut_is_shown():
    meter = TokenMeter(TOKENIZER, max_tokens=60)
    violation = next(v for v in check(GOOD, PromptRequirements(IDEA, meter=meter)) if v.rule == "tokens")
    assert str(meter.count(GOOD)) in violation.message
    lost = meter.cut(GOOD)
    assert GOOD.endswith(lost[-20:])
    shown = GOOD[slice(*violation.span)]
    assert "".join(shown.split()) == "".join(lost.split())
    assert meter.count(GOOD) - meter.max_tokens > 0
    assert meter.cut("hello") == ""


@pytest.mark.parametrize(
    ("words", "seconds", "says"),
    [
        (" ".join(["word"] * 22), 193 / 24, None),
        (" ".join(["word"] * 26), 193 / 24, "hurried"),
        (" ".join(["word"] * 29), 193 / 24, "cannot be said"),
        ("字" * 36, 193 / 24, None),
        ("字" * 40, 193 / 24, "hurried"),
        ("字" * 49, 193 / 24, "cannot be said"),
        ("one two three", 1.0, "hurried"),
    ],
)
def test_more_speech_than_the_clip_holds_is_a_warning(words, seconds, says):
    brief = PromptRequirements(f'The man says "{words}"', seconds=seconds)
    found = [v for v in check(text(says=f'The man says, "{words}"'), brief) if v.rule == "speech"]
    assert len(found) == (says is not None)
    if says:
        assert says in found[0].message
        assert found[0].severity == "warning"


def test_words_are_counted_in_every_script():
    assert count_words("Don't count my well-known words") == 5
    assert count_words("他在雨中 runs fast") == 6
    assert count_words("") == 0
    assert speech_seconds("字" * 9) == 2.0
    assert language_of("他在雨中") == "Chinese"
    assert language_of("colourful keys, toy piano, E E A F F E E") == "English"
    assert language_of("A man walks down the street with a dog and smiles") == "English"


LOST = [  # idea, prompt, rule, the words that are missed
    ("scarlet ball falls", "A red ball falls.", "named", "scarlet"),
    ("a ball made of wood", "A glass ball above a dark wooden floor.", "named", "wood"),
    ("cream wall, red ball", "A blue ball before a cream wall.", "named", "red"),
    ("a man with a grey beard", "A man with brown hair in a grey hoodie.", "named", "grey beard"),
    ("a white cat near a dog", "A black cat beside a white dog.", "named", "white cat"),
    ("一个红色的球", "A blue ball falls.", "named", "红色"),
    (
        "a man with a grey beard",
        "A man with brown hair and a beard, in a grey hoodie.",
        "named",
        "grey beard",
    ),
    ("a man with a grey beard", "A man with short brown hair in a grey hoodie.", "named", "grey beard"),
    ("a red ball on a blue chair", "A blue ball lies on a red sofa.", "named", "red ball"),
    ("play C E G", "The keys C, G and E sink.", "notes", "C E G"),
    ("notes D and F", "The keys D, F and A sink.", "notes", "D and F"),
    ("girl says spaghetti", 'The girl says, "spaspetti"', "bare_words", "spaghetti"),
    ("a man saying: hurry up!", "A man speaks.", "bare_words", "hurry up"),
]
KEPT = [
    ("a steel ball, grey", "A gray ball of metal falls."),
    ("a man with a grey beard", "A man with a gray, neatly cut beard."),
    ("a man with a grey beard", "A man whose beard is grey."),
    ("a man with a grey beard", "A cartoon man with short grey hair and a beard wearing a blue hoodie."),
    ("a red ball", "A red orb."),
    ("red rubber ball on wooden floor", "A red rubber ball falls on an oak floor."),
    ("一个红色的球", "A red ball falls."),
    ("a man with a grey beard", "A man whose beard is grey looks up."),
    ("a grey-haired man", "A man with short, curly grey hair looks up."),
    ("a blue and white shirt", "A man in a shirt with blue and white stripes."),
    ("a blue and white shirt", "A white and blue striped shirt hangs there."),
    ("a red jumper on a chair", "A red sweater lies on a chair."),
    ("red ball falls", "A ball of red rubber hangs in the air. The ball falls."),
    ("play C E G. A toy piano", "The keys C-E-G sink. A note floats up."),
    ("用玩具钢琴弹C E G", "The keys C, E and G sink."),
    ("notes: D, then F", "The keys D and F sink."),
    ("Vitamin B and C on a table", "A bottle of tablets on a table."),
    ('girl says "spaghetti"', 'The girl says, "spaghetti"'),
    ("a man says nothing", "A man looks up."),
    ("a man says that the shop is closed", "A man speaks."),
    ("she says hurry up", "She says to hurry, and looks up."),
    ("the sun rose", "The sun climbs over the hill."),
    ('a sign reads "red"', 'A sign reads "red".'),
]


def lost(idea: str, prompt: str) -> list[tuple[str, str]]:
    named = ("named", "notes", "bare_words")
    return [(v.rule, v.message) for v in check(prompt, PromptRequirements(idea)) if v.rule in named]


@pytest.mark.parametrize(("idea", "prompt", "rule", "words"), LOST)
def test_a_prompt_without_what_the_idea_names_is_told_what_it_lacks(idea, prompt, rule, words):
    ((found, message),) = lost(idea, prompt)
    assert found == rule
    assert words in message


@pytest.mark.parametrize(("idea", "prompt", "rule", "words"), LOST)
def test_what_is_missing_is_added_when_it_is_asked_for(idea, prompt, rule, words):
    brief = PromptRequirements(idea)
    text = f"{prompt} It goes on.\n\nThe audio shows a room. {NO_SUBTITLES}"
    (found,) = [each for each in check(text, brief) if each.missing]
    added = add_missing(text, found, brief)
    assert not any(each.missing for each in check(added, brief)), added
    assert PromptPlan.parse(added).audio == "The audio shows a room."
    assert not repair(text, brief).is_good  # a writer is asked again, and nothing is added by itself


@pytest.mark.parametrize(("idea", "prompt"), KEPT)
def test_the_same_thing_in_other_words_is_not_lost(idea, prompt):
    assert lost(idea, prompt) == []


@pytest.mark.parametrize(("idea", "prompt", "rule", "words"), LOST)
def test_the_template_loses_nothing(idea, prompt, rule, words):
    assert lost(idea, write_template(PromptRequirements(idea))) == []


def test_an_endless_idea_is_searched_in_no_time():
    idea = "says " * 12_000
    assert lost(idea, "Someone speaks.") == []


def test_each_word_stands_once_in_its_list():
    for name in ("colours", "materials"):
        words = [word.strip() for line in load_words(name) for word in line.split(",")]
        assert len(words) == len(set(words))
        assert all(word == word.lower() for word in words)


def test_every_rule_is_tried_here():
    tried = {row[0] for row in REPAIRED + SEEN} | {row[2] for row in LOST} | {"tokens", "speech"}
    assert tried == set(RULES)
